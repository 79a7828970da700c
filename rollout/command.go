package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// CommandKind is what a person can ask of a rollout.
type CommandKind string

// The commands. Supersede is given by a newer Start, not by a person.
const (
	CommandPromote   CommandKind = "promote"
	CommandPause     CommandKind = "pause"
	CommandResume    CommandKind = "resume"
	CommandAbort     CommandKind = "abort"
	CommandSupersede CommandKind = "supersede"
	CommandRetry     CommandKind = "retry"
	CommandRestart   CommandKind = "restart"
	CommandForget    CommandKind = "forget"
	CommandApprove   CommandKind = "approve"
	CommandReject    CommandKind = "reject"
	CommandOverride  CommandKind = "override" // of freeze windows
)

// Command waits in the record for the owner of the rollout.
type Command struct {
	ID   string      `json:"id"`
	Kind CommandKind `json:"kind"`
	// Revision is the rollout that is meant: a command never hits a later one.
	Revision int       `json:"revision"`
	By       string    `json:"by,omitempty"`
	At       time.Time `json:"at"`
	// Full promotes past all steps that are left.
	Full bool `json:"full,omitempty"`
	// Gate is the approval that is meant, if it is named; Comment what was said with it.
	Gate    string `json:"gate,omitempty"`
	Comment string `json:"comment,omitempty"`
	// Groups are those of By that an approval names, as the owner knows them when
	// it answers: what the record says of them is not believed.
	Groups []string `json:"-"`
}

// Reply answers a command.
type Reply struct {
	ID       string    `json:"id"`
	Accepted bool      `json:"accepted"`
	Message  string    `json:"message"`
	At       time.Time `json:"at"`
}

// Said is a command that was given to a rollout, and how it was answered.
type Said struct {
	ID       string      `json:"id,omitempty"`
	Command  CommandKind `json:"command"`
	By       string      `json:"by,omitempty"`
	At       time.Time   `json:"at"`
	Accepted bool        `json:"accepted"`
	Message  string      `json:"message"`
}

// replyTo is how a command was met that was given to the owner: by its answer, or
// by what became of the rollout meanwhile; nil while it waits for an answer.
func (r *Record) replyTo(command Command, now time.Time) *Reply {
	if r.Reply != nil && r.Reply.ID == command.ID {
		return r.Reply
	}
	if r.Current != nil {
		for _, said := range r.Current.Said { // others may have been answered since
			if said.ID == command.ID {
				return &Reply{ID: said.ID, Accepted: said.Accepted, Message: said.Message, At: said.At}
			}
		}
	}
	if r.Live() && r.Current.Revision == command.Revision {
		return nil
	}
	a := answerTo(r, command)
	return &Reply{ID: command.ID, Accepted: a.accepted, Message: a.message, At: now}
}

// maxSaid bounds the commands that a rollout remembers.
const maxSaid = 20

// hear writes a command down. Nothing is done by it.
func (r *Rollout) hear(command Command, a answer, now time.Time) {
	r.Said = append(r.Said, Said{ID: command.ID, Command: command.Kind, By: clipText(command.By), At: now, Accepted: a.accepted, Message: a.message})
	if more := len(r.Said) - maxSaid; more > 0 {
		r.Said = slices.Delete(r.Said, 0, more)
	}
}

// answer is how a command is met in a state. A command that is accepted in
// states where nothing is left to do for it repeats harmlessly.
type answer struct {
	accepted bool
	message  string
}

func yes(message string) answer { return answer{true, message} }
func no(message string) answer  { return answer{false, message} }

// answers is the whole table: every command in every state.
var answers = map[CommandKind]map[State]answer{
	CommandPromote: {
		Pending:     no("it has not begun; wait until the canary runs"),
		Applying:    no("its objects are being written; wait until the canary runs"),
		Canary:      yes("promoted"),
		Preview:     yes("promoted: the live Service is being switched"),
		Switched:    yes("promoted: the old version makes way now"),
		Promoting:   yes("it is being promoted already"),
		Rolling:     no("the stable workload is moving already; what is left is its health gate, which cannot be skipped"),
		Finishing:   yes("it has passed already"),
		RollingBack: no("it is being rolled back; start the release again when that is done"),
		Withdrawing: no("a newer release takes its place"),
		Verified:    yes("it is verified already"),
		RolledBack:  no("it was rolled back; start the release again"),
		Failed:      no("it failed; start a release that works"),
		Superseded:  no("a newer release took its place"),
	},
	CommandPause: {
		Pending:     yes("paused"),
		Applying:    yes("paused; takes effect when its objects are written"),
		Canary:      yes("paused at this step"),
		Preview:     yes("paused: the live Service is not switched"),
		Switched:    yes("paused: the old version is kept"),
		Promoting:   yes("paused; takes effect when its objects are written"),
		Rolling:     yes("paused: the workload stops replacing pods"),
		Finishing:   no("it has passed its gates and is being tidied up"),
		RollingBack: no("a rollback cannot be paused: it would leave two versions running"),
		Withdrawing: no("a newer release takes its place"),
		Verified:    no("no rollout is in progress"),
		RolledBack:  no("no rollout is in progress"),
		Failed:      no("no rollout is in progress"),
		Superseded:  no("no rollout is in progress"),
	},
	CommandResume: {
		Pending:     yes("resumed"),
		Applying:    yes("resumed"),
		Canary:      yes("resumed"),
		Preview:     yes("resumed"),
		Switched:    yes("resumed"),
		Promoting:   yes("resumed"),
		Rolling:     yes("resumed"),
		Finishing:   yes("it is not paused"),
		RollingBack: yes("it goes back; nothing is paused"),
		Withdrawing: yes("it makes way for a newer release; nothing is paused"),
		Verified:    no("no rollout is in progress"),
		RolledBack:  no("no rollout is in progress"),
		Failed:      no("no rollout is in progress"),
		Superseded:  no("no rollout is in progress"),
	},
	CommandAbort: {
		Pending:     yes("aborted"),
		Applying:    yes("aborted: going back"),
		Canary:      yes("aborted: the canary is being removed"),
		Preview:     yes("aborted: the preview is being removed"),
		Switched:    yes("aborted: the live Service returns to the old version"),
		Promoting:   yes("aborted: going back"),
		Rolling:     yes("aborted: going back"),
		Finishing:   no("it has passed its gates; use rollback to return to the revision before"),
		RollingBack: yes("it is going back already"),
		Withdrawing: no("a newer release takes its place; abort that one"),
		Verified:    no("it is verified; use rollback to return to the revision before"),
		RolledBack:  yes("it was rolled back already"),
		Failed:      yes("it has ended already"),
		Superseded:  yes("it has ended already"),
	},
	CommandOverride: {
		Pending:     yes("freeze windows do not hold it any more"),
		Applying:    yes("it has begun already"),
		Canary:      yes("it has begun already"),
		Preview:     yes("it has begun already"),
		Switched:    yes("it has begun already"),
		Promoting:   yes("it has begun already"),
		Rolling:     yes("it has begun already"),
		Finishing:   yes("it has begun already"),
		RollingBack: no("it is being rolled back"),
		Withdrawing: no("a newer release takes its place"),
		Verified:    no("no rollout is in progress"),
		RolledBack:  no("no rollout is in progress"),
		Failed:      no("no rollout is in progress"),
		Superseded:  no("no rollout is in progress"),
	},
	CommandApprove: {
		Pending:     no("no step serves yet, so that no gate is asked"),
		Applying:    no("no step serves yet, so that no gate is asked"),
		Canary:      yes("approved"),
		Preview:     yes("approved"),
		Switched:    yes("approved"),
		Promoting:   no("its gates have passed"),
		Rolling:     no("its gates have passed; what is left is the workload's own health gate"),
		Finishing:   no("its gates have passed"),
		RollingBack: no("it is being rolled back"),
		Withdrawing: no("a newer release takes its place"),
		Verified:    no("no rollout is in progress"),
		RolledBack:  no("no rollout is in progress"),
		Failed:      no("no rollout is in progress"),
		Superseded:  no("no rollout is in progress"),
	},
	CommandReject: {
		Pending:     no("no step serves yet, so that no gate is asked"),
		Applying:    no("no step serves yet, so that no gate is asked"),
		Canary:      yes("rejected: going back"),
		Preview:     yes("rejected: going back"),
		Switched:    yes("rejected: the live Service returns to the old version"),
		Promoting:   no("its gates have passed"),
		Rolling:     no("its gates have passed; what is left is the workload's own health gate"),
		Finishing:   no("its gates have passed"),
		RollingBack: no("it is being rolled back"),
		Withdrawing: no("a newer release takes its place"),
		Verified:    no("no rollout is in progress"),
		RolledBack:  no("no rollout is in progress"),
		Failed:      no("no rollout is in progress"),
		Superseded:  no("no rollout is in progress"),
	},
	CommandRetry: {
		Pending:     yes("it is under way already"),
		Applying:    yes("it is under way already"),
		Canary:      yes("it is under way already"),
		Preview:     yes("it is under way already"),
		Switched:    yes("it is under way already"),
		Promoting:   yes("it is under way already"),
		Rolling:     yes("it is under way already"),
		Finishing:   yes("it has passed already"),
		RollingBack: no("it is being rolled back; retry when that is done"),
		Withdrawing: no("a newer release takes its place"),
		Verified:    yes("it is verified already"),
		RolledBack:  yes("started again"),
		Failed:      yes("started again"),
		Superseded:  yes("started again"),
	},
	CommandRestart: {
		Pending:     no("a release is on its way; abort it first, or wait"),
		Applying:    no("a release is on its way; abort it first, or wait"),
		Canary:      no("a release is on its way; abort it first, or promote it"),
		Preview:     no("a release is on its way; abort it first, or promote it"),
		Switched:    no("a release is on its way; abort it first, or promote it"),
		Promoting:   no("a release is on its way, and replaces all pods; wait for it"),
		Rolling:     no("a release is on its way, and replaces all pods; wait for it"),
		Finishing:   no("a release is being tidied up; try again in a moment"),
		RollingBack: no("a release is being rolled back; restart when that is done"),
		Withdrawing: no("a newer release takes its place"),
		Verified:    yes("restarting"),
		RolledBack:  yes("restarting"),
		Failed:      yes("restarting"),
		Superseded:  yes("restarting"),
	},
	CommandForget: {
		Pending:     no("a release is on its way; abort it first"),
		Applying:    no("a release is on its way; abort it first"),
		Canary:      no("a release is on its way; abort or promote it first"),
		Preview:     no("a release is on its way; abort or promote it first"),
		Switched:    no("a release is on its way; abort or promote it first"),
		Promoting:   no("a release is on its way; abort it first, or wait"),
		Rolling:     no("a release is on its way; abort it first, or wait"),
		Finishing:   no("a release is being tidied up; try again in a moment"),
		RollingBack: no("a release is being rolled back; forget it when that is done"),
		Withdrawing: no("a newer release takes its place"),
		Verified:    yes("forgotten"),
		RolledBack:  yes("forgotten"),
		Failed:      yes("forgotten"),
		Superseded:  yes("forgotten"),
	},
	CommandSupersede: {
		Pending:     yes("making way"),
		Applying:    yes("making way"),
		Canary:      yes("making way: the canary is being removed"),
		Preview:     yes("making way: the preview is being removed"),
		Switched:    yes("making way: the live Service returns to the old version"),
		Promoting:   yes("making way"),
		Rolling:     yes("making way"),
		Finishing:   yes("it has passed and ends by itself"),
		RollingBack: yes("making way: the newer release goes on from here"),
		Withdrawing: yes("it makes way already"),
		Verified:    yes("it has ended already"),
		RolledBack:  yes("it has ended already"),
		Failed:      yes("it has ended already"),
		Superseded:  yes("it has ended already"),
	},
}

// answerTo tells how a command is met by the record as it is.
func answerTo(record *Record, command Command) answer {
	if record.Current == nil {
		return no("nothing has been rolled out yet")
	}
	if command.Revision != 0 && command.Revision != record.Current.Revision {
		return no(fmt.Sprintf("it was meant for revision %d, and revision %d is current now", command.Revision, record.Current.Revision))
	}
	if c := record.Current; command.Kind == CommandPromote && c.State == Switched && c.StepReadyAt.IsZero() {
		return no("the live Service is being switched; promote again when it has been, to let the old version go")
	}
	a, ok := answers[command.Kind][record.Current.State]
	if record.Current.openEntry() {
		switch command.Kind {
		case CommandApprove:
			a = yes("approved: it begins")
		case CommandReject:
			a = yes("rejected: nothing was changed")
		}
	}
	if command.Kind == CommandRestart && a.accepted && record.Verified == 0 {
		return no("nothing is verified yet; start a release")
	}
	if a.accepted {
		switch command.Kind {
		case CommandApprove, CommandReject:
			if gate, instead := record.Current.approvalFor(command); gate == nil {
				return instead
			}
		case CommandPromote:
			if gate := record.Current.bypassed(command); gate != nil && record.Live() {
				return no(fmt.Sprintf("%s waits for %s, and a promotion would step over it; one of them has to promote, or to approve", gate.title(), strings.Join(gate.Approval.From, " or ")))
			}
		}
	}
	if !ok {
		return no(fmt.Sprintf("unknown command %q", command.Kind))
	}
	return a
}

// obey answers the command that waits in the record and carries out what is
// to be done in the record for it.
func (r *Record) obey(now time.Time) error {
	command := *r.Command
	a := answerTo(r, command)
	r.Command = nil
	r.Reply = &Reply{ID: command.ID, Accepted: a.accepted, Message: a.message, At: now}
	r.Current.hear(command, a, now)
	if !a.accepted || r.Current.State.Final() {
		return nil
	}
	c := r.Current
	switch command.Kind {
	case CommandPromote:
		if !c.State.measured() {
			return nil
		}
		c.resumePaused(now)
		gate := manualGate(c.Step, command.By, now)
		switch c.State {
		case Preview:
			return r.advance(Move{To: Switched, Step: 2, Proof: gate}, now)
		case Switched:
			return r.advance(Move{To: Promoting, Proof: gate}, now)
		}
		if command.Full || c.Step == len(c.Strategy.Steps) {
			return r.advance(Move{To: Promoting, Proof: gate}, now)
		}
		return r.advance(Move{To: Canary, Step: c.Step + 1, Proof: gate}, now)
	case CommandApprove, CommandReject:
		if gate, _ := c.approvalFor(command); gate != nil {
			c.put(c.decision(gate, command, now))
		}
	case CommandOverride:
		if c.State == Pending && c.Override == "" {
			c.Override = overriding(command.By, command.Comment)
		}
	case CommandPause:
		if !c.Paused {
			c.Paused, c.PausedBy, c.PausedAt = true, command.By, now
		}
	case CommandResume:
		c.resumePaused(now)
	case CommandAbort:
		if c.State != RollingBack {
			return r.advance(Move{To: RollingBack, Ending: EndedByAbort, EndedBy: command.By}, now)
		}
	case CommandSupersede:
		if c.State != Withdrawing && c.State != Finishing {
			return r.advance(Move{To: Withdrawing, Ending: EndedBySuperior, EndedBy: command.By}, now)
		}
	}
	return nil
}

// overriding tells who overrides a freeze, and why, in one line.
func overriding(by, why string) string {
	return clipText(orUnknown(by) + ": " + cmp.Or(why, "no reason given"))
}

// resumePaused ends a pause; the time it took counts for no deadline.
func (r *Rollout) resumePaused(now time.Time) {
	if !r.Paused {
		return
	}
	pause := max(now.Sub(r.PausedAt), 0)
	r.Paused, r.PausedBy, r.PausedAt = false, "", time.Time{}
	r.shift(pause, now)
}
