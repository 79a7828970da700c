package server

import (
	"context"
	"fmt"
	"strings"

	"github.com/tidegate-ci/tidegate/internal/gitssh"
	"github.com/tidegate-ci/tidegate/internal/settings"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/inbox"
	"github.com/tidegate-ci/tidegate/triggers/source"
)

// repositories are those of the settings with their secrets read, by name in
// lower case: GitHub compares names so.
type repositories struct {
	byName map[string]repository
}

type repository struct {
	settings.Repository
	webhookSecret []byte
	token         string
	sshKey        []byte
	secrets       map[string]string
}

// readRepositories reads every secret now, so that a missing one is known at
// the start and not in the middle of a deploy.
func readRepositories(configured []settings.Repository) (*repositories, error) {
	all := &repositories{byName: map[string]repository{}}
	for _, c := range configured {
		r := repository{Repository: c, secrets: map[string]string{}}
		secret, err := c.WebhookSecret.Value()
		if err == nil {
			err = inbox.CheckSecret([]byte(secret))
		}
		if err != nil {
			return nil, fmt.Errorf("repository %s: webhook-secret: %w", c.Name, err)
		}
		r.webhookSecret = []byte(secret)
		if c.Token.Set() {
			if r.token, err = c.Token.Value(); err != nil {
				return nil, fmt.Errorf("repository %s: token: %w", c.Name, err)
			}
		}
		if c.SSHKey.Set() {
			key, err := c.SSHKey.Value()
			if err == nil {
				_, err = gitssh.Key([]byte(key))
			}
			if err != nil {
				return nil, fmt.Errorf("repository %s: ssh-key: %w", c.Name, err)
			}
			r.sshKey = []byte(key)
		}
		for name, named := range c.Secrets {
			if r.secrets[name], err = named.Value(); err != nil {
				return nil, fmt.Errorf("repository %s: secret %s: %w", c.Name, name, err)
			}
		}
		all.byName[strings.ToLower(c.Name)] = r
	}
	return all, nil
}

func (r *repositories) find(fullName string) (repository, bool) {
	found, ok := r.byName[strings.ToLower(fullName)]
	return found, ok
}

// Lookup is what the inbox asks before it trusts a delivery.
func (r *repositories) Lookup(fullName string) (inbox.Repository, bool) {
	found, ok := r.find(fullName)
	if !ok {
		return inbox.Repository{}, false
	}
	return inbox.Repository{FullName: found.Name, Secret: found.webhookSecret, CloneURL: found.Clone, DefaultBranch: found.DefaultBranch}, true
}

// credentials are what the source cache fetches with.
func (r *repositories) credentials(_ context.Context, of event.Repository) (source.Credentials, error) {
	found, ok := r.find(of.FullName)
	if !ok {
		return source.Credentials{}, nil
	}
	return source.Credentials{Username: "x-access-token", Password: found.token, SSHKey: found.sshKey, KnownHosts: found.KnownHosts}, nil
}

// runSecrets are what trusted stages may see: run stages as environment
// variables, builds where a RUN mounts a secret of that name. Deploys get none:
// their credentials are the environment's.
func (r *repositories) runSecrets(_ context.Context, _ string, plan *pipeline.Plan, stage pipeline.PlannedStage) (map[string]string, error) {
	found, ok := r.find(plan.Event.Repository.FullName)
	if !ok || stage.Kind == pipeline.KindDeploy || plan.Event.Trust != event.Own {
		return nil, nil
	}
	return found.secrets, nil
}
