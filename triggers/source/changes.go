package source

import (
	"context"
	"fmt"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// ChangedPaths lists the paths that differ between two commits, sorted; both
// are fetched if need be. A file that moved counts with both its paths.
func (c *Cache) ChangedPaths(ctx context.Context, repository event.Repository, from, to string) ([]string, error) {
	fail := func(err error) ([]string, error) {
		return nil, fmt.Errorf("compare %s with %s of %s: %w", from, to, repository.FullName, err)
	}
	if err := c.Fetch(ctx, repository, "", from); err != nil {
		return nil, err
	}
	var paths []string
	err := c.read(ctx, repository, to, func(storage *filesystem.Storage) error {
		before, err := rootTree(storage, from)
		if err != nil {
			return err
		}
		after, err := rootTree(storage, to)
		if err != nil {
			return err
		}
		changes, err := object.DiffTreeWithOptions(ctx, before, after, &object.DiffTreeOptions{})
		if err != nil {
			return err
		}
		paths = paths[:0]
		for _, change := range changes {
			for _, name := range []string{change.From.Name, change.To.Name} {
				if name != "" {
					paths = append(paths, name)
				}
			}
		}
		return nil
	})
	if err != nil {
		return fail(err)
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// MergeBase returns the best common ancestor of two commits: what a pull
// request's changes are compared with. ErrNotFound when they share no history,
// or not as deep as it was fetched.
func (c *Cache) MergeBase(ctx context.Context, repository event.Repository, a, b string) (string, error) {
	if err := c.Fetch(ctx, repository, "", a); err != nil {
		return "", err
	}
	var base string
	err := c.read(ctx, repository, b, func(storage *filesystem.Storage) error {
		left, err := object.GetCommit(storage, plumbing.NewHash(a))
		if err != nil {
			return &brokenError{err}
		}
		right, err := object.GetCommit(storage, plumbing.NewHash(b))
		if err != nil {
			return &brokenError{err}
		}
		bases, err := left.MergeBase(right)
		if err != nil {
			return err
		}
		if len(bases) == 0 {
			return fmt.Errorf("%w: no common ancestor", ErrNotFound)
		}
		base = bases[0].Hash.String()
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("merge base of %s and %s in %s: %w", a, b, repository.FullName, err)
	}
	return base, nil
}
