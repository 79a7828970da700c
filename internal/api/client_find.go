package api

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// RunOf returns the id of the newest run of a commit, and waits until there is one.
func (c *Client) RunOf(ctx context.Context, repository, commit string) (string, error) {
	found := errors.New("found")
	var id string
	err := c.FollowList(ctx, journal.Filter{Repository: repository}, nil, func(runs []journal.Summary) error {
		for _, run := range runs {
			if run.Commit == commit {
				id = run.ID
				return found
			}
		}
		return nil
	})
	if !errors.Is(err, found) {
		return "", fmt.Errorf("find the run of commit %.12s: %w", commit, err)
	}
	return id, nil
}
