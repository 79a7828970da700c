package api

import (
	"time"

	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// Run is one run in full, without its log.
type Run struct {
	journal.Summary
	// State is the fold of the journal, the plan in it.
	State journal.State `json:"state"`
}

// StreamItem is one line of a stream; exactly one field is set.
type StreamItem struct {
	Entry     *journal.Entry `json:"entry,omitempty"`
	Line      *journal.Line  `json:"line,omitempty"`
	Heartbeat *time.Time     `json:"heartbeat,omitempty"`
	// End is the last item of a stream that ended as it should; one that stops
	// without it was cut.
	End *StreamEnd `json:"end,omitempty"`
}

// StreamEnd tells where the run stood when the stream ended.
type StreamEnd struct {
	Status journal.Status `json:"status"`
	Cause  string         `json:"cause,omitempty"`
}

// ListItem is one line of a followed list; exactly one field is set.
type ListItem struct {
	Runs      *[]journal.Summary `json:"runs,omitempty"`
	Heartbeat *time.Time         `json:"heartbeat,omitempty"`
}

// StartRequest starts pipelines by hand.
type StartRequest struct {
	// Repository is the full name of one that the server knows.
	Repository string `json:"repository"`
	// Pipeline is its name; empty starts all that allow it.
	Pipeline string `json:"pipeline,omitempty"`
	// Ref is a branch, tag, full ref or commit; empty means the default branch.
	Ref    string            `json:"ref,omitempty"`
	Inputs map[string]string `json:"inputs,omitempty"`
}

// StartedRuns answers a start or a rerun.
type StartedRuns struct {
	IDs []string `json:"ids"`
}

// CancelRequest asks a run to stop.
type CancelRequest struct {
	Reason string `json:"reason,omitempty"`
}

// RerunRequest runs a plan once more.
type RerunRequest struct {
	FromFailed bool `json:"fromFailed,omitempty"`
}

// DecisionRequest answers an approval. Who answers is told by the token.
type DecisionRequest struct {
	Approved bool   `json:"approved"`
	Comment  string `json:"comment,omitempty"`
}

// Done answers a change that has nothing else to say.
type Done struct {
	RunID string `json:"runID,omitempty"`
	Stage string `json:"stage,omitempty"`
	// Changed is false when what was asked for was so already.
	Changed bool `json:"changed"`
}

// EventRecord is one event of the inbox.
type EventRecord struct {
	Event event.Event `json:"event"`
	// Status is "pending", "done" or "dead".
	Status   string `json:"status"`
	Attempts int    `json:"attempts"`
	// Note is the result of a done event, the last error of any other.
	Note     string    `json:"note,omitempty"`
	Received time.Time `json:"received"`
	Finished time.Time `json:"finished,omitzero"`
}

// Identity is whom a token stands for.
type Identity struct {
	Token  string   `json:"token"`
	User   string   `json:"user"`
	Groups []string `json:"groups,omitempty"`
	Role   Role     `json:"role"`
}
