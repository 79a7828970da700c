package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	gh "github.com/google/go-github/v60/github"
)

// Revert asks for a pull request that takes a branch back to what it held at an
// earlier commit.
type Revert struct {
	Repository string
	// Branch is taken back from Failed, its head, to the content of Good.
	Branch, Failed, Good string
	// Head is the branch that is made for it. One pull request is ever made from it.
	Head string
	// Message is the commit's, Title and Body the pull request's. They are Markdown.
	Message, Title, Body string
}

// ErrCannotRevert is what the error of Revert wraps when there is nothing that
// could be proposed; it says why, and what a person may do.
var ErrCannotRevert = errors.New("no revert is proposed")

// Limits of what GitHub accepts.
const (
	maxPullTitle = 256
	maxPullBody  = 60 << 10
)

// Revert proposes the revert and returns the pull request's address. It clones
// nothing: the content of Good is in the repository, and a commit on top of
// Failed takes its tree. Repeated, it gives the pull request that there is, even
// if that was closed. The token needs contents and pull requests to write.
func (c *Client) Revert(ctx context.Context, r Revert) (string, error) {
	owner, name, err := split(r.Repository, r.Failed, r.Good)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrCannotRevert, err)
	}
	w := reverting{Client: c, Revert: r, owner: owner, name: name, doing: "propose to revert " + r.Failed + " of " + r.Repository}
	if address, err := w.proposed(ctx); address != "" || err != nil {
		return address, err
	}
	head, err := w.tip(ctx, r.Head)
	if err != nil {
		return "", err
	}
	if head == "" {
		if err := w.commit(ctx); err != nil {
			return "", err
		}
	}
	return w.propose(ctx)
}

// reverting is one revert under way.
type reverting struct {
	*Client
	Revert
	owner, name, doing string
}

// proposed is the address of the pull request that was made before; empty when none was.
func (w *reverting) proposed(ctx context.Context) (string, error) {
	var known []*gh.PullRequest
	err := w.again(ctx, w.doing, func() (response *gh.Response, err error) {
		known, response, err = w.github.PullRequests.List(ctx, w.owner, w.name, &gh.PullRequestListOptions{State: "all", Head: w.owner + ":" + w.Head})
		return response, err
	})
	for _, pull := range known {
		if pull.GetHead().GetRef() == w.Head {
			return pull.GetHTMLURL(), err
		}
	}
	return "", err
}

// tip is the commit of a branch; empty when there is no such branch.
func (w *reverting) tip(ctx context.Context, branch string) (string, error) {
	var ref *gh.Reference
	err := w.again(ctx, w.doing, func() (response *gh.Response, err error) {
		ref, response, err = w.github.Git.GetRef(ctx, w.owner, w.name, "heads/"+branch)
		return response, err
	})
	if statusOf(err) == http.StatusNotFound {
		return "", nil
	}
	return ref.GetObject().GetSHA(), err
}

// commit makes the commit and its branch.
func (w *reverting) commit(ctx context.Context) error {
	tip, err := w.tip(ctx, w.Branch)
	switch {
	case err != nil:
		return err
	case tip == "":
		return fmt.Errorf("%w: branch %s of %s is gone", ErrCannotRevert, w.Branch, w.Repository)
	case tip != w.Failed:
		return fmt.Errorf("%w: branch %s has moved on to %s since %s was deployed, and taking its content back would undo that too; revert by hand: git revert %s..%s",
			ErrCannotRevert, w.Branch, tip, w.Failed, w.Good, w.Failed)
	}
	var compared *gh.CommitsComparison
	if err := w.again(ctx, w.doing, func() (response *gh.Response, err error) {
		compared, response, err = w.github.Repositories.CompareCommits(ctx, w.owner, w.name, w.Good, w.Failed, &gh.ListOptions{PerPage: 1})
		return response, err
	}); err != nil {
		return err
	}
	if compared.GetStatus() != "ahead" {
		return fmt.Errorf("%w: %s, which was verified last, is no ancestor of %s; look at both, and take back by hand what failed", ErrCannotRevert, w.Good, w.Failed)
	}
	good, err := w.tree(ctx, w.Good)
	if err != nil {
		return err
	}
	failed, err := w.tree(ctx, w.Failed)
	if err != nil {
		return err
	}
	if good == failed {
		return fmt.Errorf("%w: %s and %s hold the same files, so that the failure has another cause", ErrCannotRevert, w.Good, w.Failed)
	}
	var made *gh.Commit
	if err := w.again(ctx, w.doing, func() (response *gh.Response, err error) {
		made, response, err = w.github.Git.CreateCommit(ctx, w.owner, w.name, &gh.Commit{
			Message: gh.String(w.Message), Tree: &gh.Tree{SHA: gh.String(good)}, Parents: []*gh.Commit{{SHA: gh.String(w.Failed)}}}, nil)
		return response, err
	}); err != nil {
		return err
	}
	err = w.again(ctx, w.doing, func() (*gh.Response, error) {
		_, response, err := w.github.Git.CreateRef(ctx, w.owner, w.name, &gh.Reference{Ref: gh.String("refs/heads/" + w.Head), Object: &gh.GitObject{SHA: made.SHA}})
		return response, err
	})
	if statusOf(err) == http.StatusUnprocessableEntity {
		if tip, tipErr := w.tip(ctx, w.Head); tipErr == nil && tip != "" {
			return nil // somebody was faster
		}
	}
	return err
}

func (w *reverting) tree(ctx context.Context, commit string) (string, error) {
	var found *gh.Commit
	err := w.again(ctx, w.doing, func() (response *gh.Response, err error) {
		found, response, err = w.github.Git.GetCommit(ctx, w.owner, w.name, commit)
		return response, err
	})
	return found.GetTree().GetSHA(), err
}

// propose makes the pull request.
func (w *reverting) propose(ctx context.Context) (string, error) {
	var pull *gh.PullRequest
	err := w.again(ctx, w.doing, func() (response *gh.Response, err error) {
		pull, response, err = w.github.PullRequests.Create(ctx, w.owner, w.name, &gh.NewPullRequest{
			Title: gh.String(oneLine(w.Title, maxPullTitle)), Body: gh.String(clip(w.Body, maxPullBody)),
			Head: gh.String(w.Head), Base: gh.String(w.Branch), MaintainerCanModify: gh.Bool(true)})
		return response, err
	})
	if statusOf(err) == http.StatusUnprocessableEntity {
		if address, again := w.proposed(ctx); again == nil && address != "" {
			return address, nil
		}
	}
	return pull.GetHTMLURL(), err
}
