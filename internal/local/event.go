// Package local runs a pipeline on this machine, in the working tree, with no
// server: the same engine, the same stages, another way in.
package local

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// Event describes a start by hand in a working tree, or pretends another kind.
// branch overrides the current one. A folder that is no Git repository gets an
// event without commit.
func Event(root string, kind event.Kind, branch string) (event.Event, error) {
	switch kind {
	case event.Manual, event.Push, event.PullRequest, event.Tag:
	default:
		return event.Event{}, fmt.Errorf("event %q: use manual, push, pull_request or tag", kind)
	}
	e := event.Event{
		ID:         rand.Text(),
		Forge:      "local",
		Kind:       kind,
		Repository: event.Repository{FullName: "local/" + filepath.Base(root)},
		Actor:      actor(),
		Trust:      event.Own,
		ReceivedAt: time.Now(),
	}
	repository, err := git.PlainOpenWithOptions(root, &git.PlainOpenOptions{DetectDotGit: true})
	if err != nil && !errors.Is(err, git.ErrRepositoryNotExists) {
		return e, fmt.Errorf("open the Git repository of %s: %w", root, err)
	}
	if err == nil {
		describe(&e, repository)
	}
	if branch != "" {
		e.Branch = branch
		e.Ref = string(plumbing.NewBranchReferenceName(branch))
	}
	if kind == event.Tag {
		e.Tag, e.Branch = e.Branch, ""
		e.Ref = string(plumbing.NewTagReferenceName(e.Tag))
	}
	if kind == event.PullRequest {
		e.PullRequest = &event.PullRequestInfo{HeadBranch: e.Branch, BaseBranch: "main"}
	}
	return e, nil
}

// describe fills in what the repository knows; a repository without a commit
// knows nothing yet.
func describe(e *event.Event, repository *git.Repository) {
	if head, err := repository.Head(); err == nil {
		e.Commit, e.Ref = head.Hash().String(), string(head.Name())
		if head.Name().IsBranch() {
			e.Branch = head.Name().Short()
		}
		if commit, err := repository.CommitObject(head.Hash()); err == nil {
			e.Message = strings.TrimSpace(commit.Message)
		}
	}
	if remote, err := repository.Remote("origin"); err == nil && len(remote.Config().URLs) > 0 {
		if name := fullName(remote.Config().URLs[0]); name != "" {
			e.Repository.FullName = name
		}
	}
}

// fullName takes owner/name from a remote's URL; the URL itself may carry
// credentials and is not kept.
func fullName(remote string) string {
	path := strings.TrimSuffix(strings.TrimSuffix(remote, "/"), ".git")
	path = strings.ReplaceAll(path, ":", "/")
	parts := strings.Split(path, "/")
	if len(parts) < 2 {
		return ""
	}
	return strings.Join(parts[len(parts)-2:], "/")
}

func actor() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return os.Getenv("USER")
}
