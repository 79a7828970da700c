// Package event holds the one type that crosses from triggers to the pipeline:
// what happened, in words that no forge owns.
package event

import "time"

// Kind says what sort of thing happened.
type Kind string

// The kinds of event a pipeline can name in its `on:` section.
const (
	Push        Kind = "push"
	Tag         Kind = "tag"
	PullRequest Kind = "pull_request"
	Schedule    Kind = "schedule"
	Manual      Kind = "manual"
)

// Trust says whose code an event would run. The zero value is the careful one.
type Trust string

const (
	// Fork is code from outside the repository: it sees no secrets and feeds
	// no cache that trusted runs read.
	Fork Trust = ""
	// Own is code on a branch or tag of the repository itself.
	Own Trust = "own"
)

// Repository names where the code lives.
type Repository struct {
	// FullName is the owner and name, such as "octo/shop".
	FullName string `json:"fullName"`
	// CloneURL is what Git fetches from. It carries no credentials.
	CloneURL string `json:"cloneURL,omitempty"`
	// DefaultBranch is the branch schedules run on; empty when not known.
	DefaultBranch string `json:"defaultBranch,omitempty"`
}

// PullRequestInfo is set on events of kind PullRequest.
type PullRequestInfo struct {
	Number     int    `json:"number"`
	BaseBranch string `json:"baseBranch"`
	HeadBranch string `json:"headBranch"`
	// Title is untrusted text.
	Title string `json:"title,omitempty"`
}

// Event is what happened, normalised. It is immutable once stored. Every string
// in it may have been written by an attacker; none is ever run or rendered raw.
type Event struct {
	// ID is unique per forge: the delivery id of a webhook, or made by the
	// trigger (a schedule uses its name and planned time), so that the same
	// happening seen twice has the same ID.
	ID         string     `json:"id"`
	Forge      string     `json:"forge"` // "github", "schedule", "manual", …
	Kind       Kind       `json:"kind"`
	Repository Repository `json:"repository"`
	// Ref is the full Git ref, such as "refs/heads/main".
	Ref string `json:"ref,omitempty"`
	// Branch is the short name for pushes, the head branch for pull requests.
	Branch string `json:"branch,omitempty"`
	Tag    string `json:"tag,omitempty"`
	// Commit is the full hash to run at; Before is the previous tip, empty for
	// a new ref.
	Commit  string `json:"commit"`
	Before  string `json:"before,omitempty"`
	Message string `json:"message,omitempty"`
	Actor   string `json:"actor,omitempty"`
	Trust   Trust  `json:"trust,omitempty"`
	// ChangedPaths lists the paths the event touched, when PathsKnown is true.
	// When it is false, path filters match: running too much is safe.
	ChangedPaths []string         `json:"changedPaths,omitempty"`
	PathsKnown   bool             `json:"pathsKnown,omitempty"`
	PullRequest  *PullRequestInfo `json:"pullRequest,omitempty"`
	// Schedule is the cron expression that fired, for kind Schedule.
	Schedule   string            `json:"schedule,omitempty"`
	Inputs     map[string]string `json:"inputs,omitempty"`
	ReceivedAt time.Time         `json:"receivedAt"`
}
