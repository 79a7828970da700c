package server

import (
	"context"
	"fmt"
	"time"

	"github.com/tidegate-ci/tidegate/triggers/forge/github"
)

// sendTimeout bounds one commit status with its retries, so that a forge that
// is away holds up no other; the reporter comes back to it.
const sendTimeout = 30 * time.Second

// githubStatuses sends commit statuses with each repository's own token.
type githubStatuses struct {
	clients map[string]*github.Client // by full name as the settings write it
}

func newGithubStatuses(api string, known *repositories) (*githubStatuses, error) {
	sink := &githubStatuses{clients: map[string]*github.Client{}}
	for _, r := range known.byName {
		if r.token == "" {
			continue
		}
		client, err := github.NewClient(github.ClientConfig{BaseURL: api, Token: r.token})
		if err != nil {
			return nil, fmt.Errorf("repository %s: %w", r.Name, err)
		}
		sink.clients[r.Name] = client
	}
	return sink, nil
}

// send does nothing for a repository without a token: it may not be written to.
func (g *githubStatuses) send(ctx context.Context, repository, commit string, status commitStatus) error {
	client, ok := g.clients[repository]
	if !ok || commit == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return client.Status(ctx, repository, commit, github.State{
		Context: status.context, State: github.StateName(status.state), Description: status.description,
	})
}
