package github

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	gh "github.com/google/go-github/v60/github"

	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/inbox"
)

const (
	// maxPayloadCommits is how many commits GitHub puts into a push (docs.github.com,
	// webhook push: at most 2048). From there on the list may be cut short.
	maxPayloadCommits = 2048
	// maxChangedPaths bounds the paths kept with an event; a push that touches
	// more counts as touching everything.
	maxChangedPaths = 3000
	maxMessage      = 8 << 10
	maxTitle        = 1 << 10
	maxRef          = 1 << 10
	maxURL          = 2 << 10
	maxActor        = 256
)

// Event implements inbox.Delivery.
func (d delivery) Event(body []byte) (event.Event, string, error) {
	switch d.event {
	case "ping":
		return event.Event{}, "", inbox.Refusef(http.StatusOK, "pong")
	case "push", "pull_request":
	default:
		return event.Event{}, fmt.Sprintf("events of type %s start nothing", d.event), nil
	}
	payload, err := d.payload(body)
	if err != nil {
		return event.Event{}, "", err
	}
	parsed, err := gh.ParseWebHook(d.event, payload)
	if err != nil {
		return event.Event{}, "", inbox.Refusef(http.StatusBadRequest, "the payload is not that of a %s event", d.event)
	}
	var (
		ev      event.Event
		ignored string
	)
	switch parsed := parsed.(type) {
	case *gh.PushEvent:
		ev, ignored, err = fromPush(parsed)
	case *gh.PullRequestEvent:
		ev, ignored, err = fromPullRequest(parsed)
	}
	if err != nil || ignored != "" {
		return event.Event{}, ignored, err
	}
	ev.ID, ev.Forge = d.id, Name
	return ev, "", nil
}

func fromPush(push *gh.PushEvent) (event.Event, string, error) {
	ref := push.GetRef()
	repository := push.GetRepo()
	ev := event.Event{
		Kind: event.Push,
		Repository: event.Repository{
			FullName:      repository.GetFullName(),
			CloneURL:      repository.GetCloneURL(),
			DefaultBranch: repository.GetDefaultBranch(),
		},
		Ref:     ref,
		Commit:  push.GetAfter(),
		Before:  push.GetBefore(),
		Message: clip(push.GetHeadCommit().GetMessage(), maxMessage),
		Actor:   clip(push.GetSender().GetLogin(), maxActor),
		Trust:   event.Own,
	}
	if ev.Actor == "" {
		ev.Actor = clip(push.GetPusher().GetName(), maxActor)
	}
	switch {
	case !validRef(ref):
		return ev, "", inbox.Refusef(http.StatusBadRequest, "the push names no valid ref")
	case push.GetDeleted() || isZero(ev.Commit):
		return ev, "deleting " + ref + " starts nothing", nil
	case !validHash(ev.Commit):
		return ev, "", inbox.Refusef(http.StatusBadRequest, "the push names no commit")
	case ev.Before != "" && !validHash(ev.Before):
		return ev, "", inbox.Refusef(http.StatusBadRequest, "the push names no valid earlier commit")
	}
	if isZero(ev.Before) {
		ev.Before = ""
	}
	if tag, ok := strings.CutPrefix(ref, "refs/tags/"); ok {
		ev.Kind, ev.Tag = event.Tag, tag
		// The payload of an annotated tag has the tag object as "after": the
		// commit is that of the head commit.
		if head := push.GetHeadCommit().GetID(); validHash(head) {
			ev.Commit = head
		}
	} else if branch, ok := strings.CutPrefix(ref, "refs/heads/"); ok {
		ev.Branch = branch
		// A new branch's or a forced push's commits do not say what differs from before.
		if ev.Before != "" && !push.GetForced() && !push.GetCreated() {
			ev.ChangedPaths, ev.PathsKnown = changedPaths(push.Commits, ev.Commit)
		}
	} else {
		return ev, "pushes to " + ref + " start nothing", nil
	}
	return ev, "", checkRepository(ev.Repository)
}

// changedPaths joins the paths of all commits of a push. They are known only
// when the list is whole: it ends with the new tip and is not at a limit.
func changedPaths(commits []*gh.HeadCommit, tip string) (paths []string, known bool) {
	if len(commits) == 0 || len(commits) >= maxPayloadCommits || commits[len(commits)-1].GetID() != tip {
		return nil, false
	}
	seen := map[string]bool{}
	for _, commit := range commits {
		if commit == nil {
			return nil, false
		}
		for _, list := range [][]string{commit.Added, commit.Removed, commit.Modified} {
			for _, path := range list {
				seen[path] = true
			}
		}
		if len(seen) > maxChangedPaths {
			return nil, false
		}
	}
	paths = make([]string, 0, len(seen))
	for path := range seen {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths, true
}

func fromPullRequest(pr *gh.PullRequestEvent) (event.Event, string, error) {
	switch action := pr.GetAction(); action {
	case "opened", "synchronize", "reopened":
	default:
		return event.Event{}, fmt.Sprintf("pull_request %s starts nothing", clip(action, maxEventName)), nil
	}
	request, repository := pr.GetPullRequest(), pr.GetRepo()
	head, base := request.GetHead(), request.GetBase()
	number := request.GetNumber()
	ev := event.Event{
		Kind: event.PullRequest,
		Repository: event.Repository{
			FullName:      repository.GetFullName(),
			CloneURL:      repository.GetCloneURL(),
			DefaultBranch: repository.GetDefaultBranch(),
		},
		Ref:    fmt.Sprintf("refs/pull/%d/head", number),
		Branch: head.GetRef(),
		Commit: head.GetSHA(),
		Actor:  clip(pr.GetSender().GetLogin(), maxActor),
		PullRequest: &event.PullRequestInfo{
			Number: number, BaseBranch: base.GetRef(), HeadBranch: head.GetRef(),
			Title: clip(request.GetTitle(), maxTitle),
		},
		Message: clip(request.GetTitle(), maxTitle),
		Trust:   trustOf(head, base),
	}
	switch {
	case number <= 0:
		return ev, "", inbox.Refusef(http.StatusBadRequest, "the pull request has no number")
	case !validHash(ev.Commit) || isZero(ev.Commit):
		return ev, "", inbox.Refusef(http.StatusBadRequest, "the pull request names no head commit")
	case !validRef("refs/heads/"+head.GetRef()) || !validRef("refs/heads/"+base.GetRef()):
		return ev, "", inbox.Refusef(http.StatusBadRequest, "the pull request names no valid branches")
	}
	if pr.GetAction() == "synchronize" && validHash(pr.GetBefore()) && !isZero(pr.GetBefore()) {
		ev.Before = pr.GetBefore()
	}
	return ev, "", checkRepository(ev.Repository)
}

// trustOf is Own only when head and base are, beyond doubt, the same
// repository: by id, which survives renames. A deleted fork has no repository.
func trustOf(head, base *gh.PullRequestBranch) event.Trust {
	h, b := head.GetRepo(), base.GetRepo()
	if h == nil || b == nil || h.GetID() == 0 || h.GetID() != b.GetID() || !strings.EqualFold(h.GetFullName(), b.GetFullName()) {
		return event.Fork
	}
	return event.Own
}

func checkRepository(r event.Repository) error {
	if len(r.CloneURL) > maxURL || r.DefaultBranch != "" && !validRef("refs/heads/"+r.DefaultBranch) {
		return inbox.Refusef(http.StatusBadRequest, "the payload's repository is not valid")
	}
	return nil
}

// validHash tells whether s is a full SHA-1 or SHA-256 object name.
func validHash(s string) bool {
	if len(s) != 40 && len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

func isZero(hash string) bool { return hash != "" && strings.Trim(hash, "0") == "" }

// validRef tells whether s is a full ref that git check-ref-format accepts.
func validRef(s string) bool {
	if !strings.HasPrefix(s, "refs/") || len(s) > maxRef || !utf8.ValidString(s) ||
		strings.HasSuffix(s, "/") || strings.HasSuffix(s, ".") || strings.Contains(s, "..") || strings.Contains(s, "@{") {
		return false
	}
	for _, c := range s {
		if c <= ' ' || c == 0x7f || strings.ContainsRune(`~^:?*[\`, c) {
			return false
		}
	}
	parts := strings.Split(s, "/")
	if len(parts) < 3 {
		return false
	}
	for _, part := range parts {
		if part == "" || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	return true
}

// clip shortens s to at most limit bytes, on a character's border.
func clip(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	s = s[:limit]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}
