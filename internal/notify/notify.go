// Package notify tells people and other systems of rollouts: by signed
// webhooks, in chats, by deployments and pull requests on GitHub. Each is a
// rollout.Receiver: the record in the cluster says what it has not been told,
// and the rollout tells it in order and again after a failure.
package notify

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tidegate-ci/tidegate/internal/netguard"
	"github.com/tidegate-ci/tidegate/internal/settings"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/triggers/forge/github"
)

// Message is a notification with the name of the environment, and of the cluster
// if that has several ("production/eu"), as it is sent.
type Message struct {
	Environment string `json:"environment"`
	rollout.Notification
}

// Receivers makes those of each environment. It makes no request.
type Receivers struct {
	settings settings.Settings
	forge    map[string]*github.Client // by the repository's full name, in lower case
}

// New reads the tokens of the repositories; what else is secret is read when it
// is used, so that it may change.
func New(s settings.Settings) (*Receivers, error) {
	r := &Receivers{settings: s, forge: map[string]*github.Client{}}
	for _, repository := range s.Repositories {
		if !repository.Token.Set() {
			continue
		}
		token, err := repository.Token.Value()
		if err != nil {
			return nil, fmt.Errorf("token of repository %s: %w", repository.Name, err)
		}
		client, err := github.NewClient(github.ClientConfig{BaseURL: s.GitHub.API, Token: token})
		if err != nil {
			return nil, fmt.Errorf("repository %s: %w", repository.Name, err)
		}
		r.forge[strings.ToLower(repository.Name)] = client
	}
	return r, nil
}

// Of lists the receivers of an environment, or of one of its clusters; never
// nil: without any, nobody is told.
func (r *Receivers) Of(name, cluster string) []rollout.Receiver {
	receivers := []rollout.Receiver{}
	environment := name
	if cluster != "" {
		environment += "/" + cluster
	}
	for _, n := range r.settings.Notifications {
		if len(n.Environments) > 0 && !slices.Contains(n.Environments, name) {
			continue
		}
		client := netguard.Client(reach(n.Private), requestTimeout)
		var one rollout.Receiver
		if n.Webhook != nil {
			one = &webhook{name: n.Name, environment: environment, url: n.Webhook.URL, key: n.Webhook.Secret.Value, client: client}
		} else {
			one = &slack{name: n.Name, environment: environment, url: n.Slack.URL.Value, client: client}
		}
		receivers = append(receivers, filtered{one, n.States})
	}
	if r.settings.GitHub.Deployments && len(r.forge) > 0 {
		receivers = append(receivers, &deployments{environment: environment, forge: r.client, known: map[string]int64{}})
	}
	if len(r.forge) > 0 {
		receivers = append(receivers, filtered{&reverts{environment: environment, forge: r.client}, []string{string(rollout.RolledBack)}})
	}
	return receivers
}

// client is the one that may write to a repository; nil when none may.
func (r *Receivers) client(source *rollout.Source) *github.Client {
	// Starts by hand and schedules are of repositories that the settings name; a
	// run in a working tree may be of anything.
	if source == nil || source.Forge == "local" {
		return nil
	}
	return r.forge[strings.ToLower(source.Repository)]
}

func reach(private bool) func(netip.Addr) bool {
	if private {
		return netguard.Inside
	}
	return netguard.Public
}

// filtered leaves out the states that its receiver did not ask for.
type filtered struct {
	rollout.Receiver
	states []string
}

// Tell implements rollout.Receiver.
func (f filtered) Tell(ctx context.Context, n rollout.Notification) error {
	if len(f.states) > 0 && !slices.Contains(f.states, string(n.To)) {
		return nil
	}
	return f.Receiver.Tell(ctx, n)
}
