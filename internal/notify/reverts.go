package notify

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tidegate-ci/tidegate/internal/termtext"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/triggers/forge/github"
)

// reverts proposes to take a commit back whose release was taken back by
// itself, if the release asks for that.
type reverts struct {
	environment string
	forge       func(*rollout.Source) *github.Client
}

// Name implements rollout.Receiver.
func (*reverts) Name() string { return "revert-pull-request" }

// Tell implements rollout.Receiver. A fork never gets here: its code is never deployed.
func (r *reverts) Tell(ctx context.Context, n rollout.Notification) error {
	if n.OnRollback != rollout.RevertPullRequest || n.To != rollout.RolledBack || n.Ending != rollout.EndedByFailure {
		return nil
	}
	client := r.forge(n.Source)
	switch {
	case client == nil:
		return fmt.Errorf("%w: no revert is proposed: it needs a repository on GitHub with a token in the settings", rollout.ErrUndeliverable)
	case n.Source.Branch == "":
		return fmt.Errorf("%w: no revert is proposed: %s was deployed from no branch", rollout.ErrUndeliverable, n.Commit)
	case n.BaseCommit == "":
		return fmt.Errorf("%w: no revert is proposed: the commit of revision %d, which serves again, is not known", rollout.ErrUndeliverable, n.Base)
	}
	_, err := client.Revert(ctx, revertOf(r.environment, n))
	if err != nil && (errors.Is(err, github.ErrCannotRevert) || github.Permanent(err)) {
		return fmt.Errorf("%w: %w", rollout.ErrUndeliverable, err)
	}
	return err
}

// revertOf words the pull request.
func revertOf(environment string, n rollout.Notification) github.Revert {
	why := n.Text
	if n.Failure != nil {
		why = n.Failure.Message
	}
	subject := n.Commit[:min(len(n.Commit), 10)]
	if n.Source.Message != "" {
		subject = `"` + quiet(clip(termtext.Clean(n.Source.Message), maxSubject)) + `"`
	}
	title := fmt.Sprintf("Revert %s: it was rolled back in %s", subject, environment)
	return github.Revert{
		Repository: n.Source.Repository, Branch: n.Source.Branch, Failed: n.Commit, Good: n.BaseCommit,
		Head:    "tidegate/revert-" + n.Commit[:min(len(n.Commit), 10)] + "-" + n.Rollout,
		Title:   title,
		Message: fmt.Sprintf("%s\n\nThis takes the files back to those of %s, which serves again.\n\nReason: %s\n", title, n.BaseCommit, quiet(clip(termtext.Clean(why), maxSection))),
		Body:    revertBody(environment, n, why),
	}
}

// quiet lets a text that is no block of code mention nobody.
func quiet(text string) string { return strings.ReplaceAll(text, "@", "@"+wordJoiner) }

// maxSubject is how much of a commit's first line is repeated.
const maxSubject = 80

// revertBody gives reason and evidence, in Markdown. What others wrote stands in
// blocks of code alone: there it is neither markup, nor does it mention anybody.
func revertBody(environment string, n rollout.Notification, why string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Revision %d of `%s` in environment `%s` was rolled back by itself; revision %d serves again.\n\n", n.Revision, n.App, environment, n.Base)
	fmt.Fprintf(&b, "| | commit |\n|---|---|\n| rolled back | %s |\n| serves | %s |\n\n", n.Commit, n.BaseCommit)
	if n.Reason != "" {
		fmt.Fprintf(&b, "Reason `%s`:\n\n", n.Reason)
	}
	b.WriteString(codeBlock([]string{why}))
	if f := n.Failure; f != nil && f.Container != nil {
		fmt.Fprintf(&b, "\nContainer `%s` in pod `%s` ended with exit code %d.\n", f.Container.Name, f.Container.Pod, f.Container.ExitCode)
	}
	if f := n.Failure; f != nil && len(f.Log) > 0 {
		b.WriteString("\nLast lines of its log:\n\n" + codeBlock(f.Log))
	}
	fmt.Fprintf(&b, "\nMerging this puts the files of the branch back to those of the commit that serves, so that the next release does not bring the failure again. "+
		"It takes back every commit between the two. `tidegate rollout history %s -n %s` tells more.\n", n.App, n.Namespace)
	return b.String()
}

// codeBlock fences text with more backticks than it holds in a row.
func codeBlock(lines []string) string {
	fence, run := "```", 0
	for _, line := range lines {
		for _, c := range line {
			if run++; c != '`' {
				run = 0
			}
			if run >= len(fence) {
				fence += "`"
			}
		}
		run = 0
	}
	var b strings.Builder
	b.WriteString(fence + "text\n")
	for _, line := range lines {
		b.WriteString(termtext.Clean(line) + "\n")
	}
	b.WriteString(fence + "\n")
	return b.String()
}
