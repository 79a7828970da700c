// Package progress is what a build says while it runs: a stream of events, and
// renderers that show it to people and programs.
package progress

import "time"

// Kind says what an event tells.
type Kind string

// The kinds of event.
const (
	// Begin is the first event of a stream; Version says which.
	Begin Kind = "begin"
	// Start begins a step; exactly one of Cached, Done, Failed and Again ends it.
	Start  Kind = "start"
	Cached Kind = "cached"
	Done   Kind = "done"
	Failed Kind = "failed"
	// Again ends a step that a cache knew of and could not give: the build
	// starts over without that part of the cache.
	Again Kind = "again"
	// Log is a line of a step's output.
	Log Kind = "log"
	// Moved says how far a step has come, in bytes.
	Moved Kind = "progress"
	// Warning is a build check's finding or another remark.
	Warning Kind = "warning"
	// Result ends a build that succeeded.
	Result Kind = "result"
)

// Version is that of the stream; README.md says what it promises.
const Version = 1

// Event is one thing that happened. Its JSON form is the stream of --progress=json,
// one object a line; fields may be added, never changed. See README.md.
type Event struct {
	Time time.Time `json:"time"`
	Kind Kind      `json:"event"`
	// Version is set in Begin alone.
	Version int `json:"version,omitempty"`
	// Step identifies the step, such as "build 2/5"; empty for the build itself.
	Step string `json:"step,omitempty"`
	// Text is the instruction for Start, the line for Log, the message for
	// Warning and Failed, what was made for Done and Result. Untrusted.
	Text string `json:"text,omitempty"`
	// Stream is stdout or stderr, for Log.
	Stream string `json:"stream,omitempty"`
	// Bytes is the size of the layer for Done and Cached, and what has moved so
	// far for Moved; Total is how much there is, 0 when that is not known.
	Bytes int64 `json:"bytes,omitempty"`
	Total int64 `json:"total,omitempty"`
	// Duration is how long the step took.
	Duration time.Duration `json:"durationNanoseconds,omitempty"`
	// Position is file:line:column in the Dockerfile, for Start and Warning.
	Position string `json:"position,omitempty"`
	// Digest is of the layer or image made.
	Digest string `json:"digest,omitempty"`
}

// Sink takes events. It is called by several goroutines and must not block for long.
type Sink func(Event)
