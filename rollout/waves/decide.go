// Package waves rolls one release out to several clusters, wave after wave. It
// keeps no state of its own: where each cluster stands is in that cluster's
// record, under the id of the run, and what to do next is decided from all of
// them together. Whoever goes on after a crash decides the same.
package waves

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/rollout"
)

// Limits.
const (
	MaxClusters = 50
	MaxHold     = rollout.MaxHold
)

// Plan is the order of the clusters, and what is between the waves.
type Plan struct {
	// Waves lists names of clusters; those of one wave move at the same time.
	Waves [][]string
	// Hold is how long the clusters that have moved must stay well before the
	// next wave begins.
	Hold time.Duration
	// Approval is asked before each wave but the first; nil means none. It waits
	// ApprovalTimeout at the longest; 0 means the rollout package's default.
	Approval        *rollout.ApprovalGate
	ApprovalTimeout time.Duration
	// KeepEarlier leaves clusters that have moved as they are when a later one
	// fails; otherwise all that this deploy moved are taken back.
	KeepEarlier bool
}

// Check says what makes no sense.
func (p Plan) Check() error {
	seen := map[string]bool{}
	if len(p.Waves) == 0 {
		return fmt.Errorf("%w: there is no wave", rollout.ErrInvalid)
	}
	for i, wave := range p.Waves {
		if len(wave) == 0 {
			return fmt.Errorf("%w: wave %d is empty", rollout.ErrInvalid, i+1)
		}
		for _, name := range wave {
			if seen[name] {
				return fmt.Errorf("%w: cluster %s is in two waves", rollout.ErrInvalid, name)
			}
			seen[name] = true
		}
	}
	switch {
	case len(seen) > MaxClusters:
		return fmt.Errorf("%w: %d clusters; at most %d", rollout.ErrInvalid, len(seen), MaxClusters)
	case p.Hold < 0 || p.Hold > MaxHold:
		return fmt.Errorf("%w: hold %s between waves: use up to %s", rollout.ErrInvalid, p.Hold, MaxHold)
	}
	return nil
}

// clusters in the order of the waves.
func (p Plan) clusters() []string { return slices.Concat(p.Waves...) }

// Phase is where a cluster stands in this deploy.
type Phase string

// The phases.
const (
	Untouched Phase = "untouched" // this deploy has not begun here
	Moving    Phase = "moving"    // its rollout is under way
	Verified  Phase = "verified"  // it runs the release, verified
	Failed    Phase = "failed"    // it ended otherwise, and has been taken back as far as that goes
	Returning Phase = "returning" // it was verified, and is being taken back
	Returned  Phase = "returned"  // it was verified, and has been taken back
	Stuck     Phase = "stuck"     // it was verified, and taking it back failed
	Overtaken Phase = "overtaken" // another release has taken its place since
)

// Seen is what a cluster's record says of this deploy.
type Seen struct {
	Phase Phase
	// Revision and Base are those of the deploy's rollout; Base is what it would
	// go back to, 0 for nothing.
	Revision, Base int
	// Mine is false when the release ran here before this deploy.
	Mine bool
	// Pending is true while nothing has been written.
	Pending bool
	// Verified is when it passed its gates.
	Verified time.Time
	Why      string
}

// See reads a cluster's record; nil when there is none. The digest is that of the
// release as it is rendered for the cluster.
func See(record *rollout.Record, runID, digest string) Seen {
	if record == nil || record.Current == nil {
		return Seen{Phase: Untouched}
	}
	r := record.ByRun(runID)
	if r == nil {
		serving := record.Revision(record.Verified)
		if !record.Live() && serving != nil && serving.Digest == digest && record.Stable == record.Verified {
			return Seen{Phase: Verified, Revision: serving.Revision, Verified: serving.Finished, Why: "it runs this very release already"}
		}
		return Seen{Phase: Untouched}
	}
	s := Seen{Revision: r.Revision, Base: r.Base, Mine: true, Verified: r.Finished, Why: r.Sentence()}
	switch {
	case !r.State.Final():
		s.Phase, s.Pending = Moving, r.State == rollout.Pending
	case r.State == rollout.Superseded:
		s.Phase = Overtaken
	case r.State != rollout.Verified:
		s.Phase = Failed
	default:
		s.Phase, s.Why = since(record, r)
	}
	return s
}

// since tells what has become of a rollout that was verified.
func since(record *rollout.Record, r *rollout.Rollout) (Phase, string) {
	now := record.Current
	if now.Revision == r.Revision {
		return Verified, r.Sentence()
	}
	// The newest that is not just a restart, or a release that was refused or taken back itself.
	switch back := now.RollbackTo != 0; {
	case back && !now.State.Final():
		return Returning, now.Sentence()
	case back && now.State == rollout.Verified:
		return Returned, fmt.Sprintf("revision %d was taken back to the content of revision %d by %s", r.Revision, now.RollbackTo, now.By)
	case back:
		return Stuck, now.Sentence()
	case record.Verified == r.Revision && now.State.Final():
		return Verified, r.Sentence()
	case now.Digest == r.Digest && now.State == rollout.Verified: // a restart
		return Verified, r.Sentence()
	}
	return Overtaken, now.Sentence()
}

// Kind of what is next.
type Kind string

// What can be next.
const (
	Start    Kind = "start"     // the clusters of a wave, after the earlier ones were held
	Abort    Kind = "abort"     // what is under way
	TakeBack Kind = "take_back" // what was verified
	Done     Kind = "done"
	GaveUp   Kind = "gave_up" // and all that was to be taken back is
	Lost     Kind = "lost"    // to a newer release, which is left alone
)

// Next is what to do now.
type Next struct {
	Kind     Kind
	Clusters []string
	// Wave counts from 0. Earlier are the clusters that have moved before it and
	// are held until Until; Asks tells that someone has to let it begin.
	Wave    int
	Earlier []string
	Until   time.Time
	Asks    bool
	Why     string
}

// Decide tells what is next. It is pure. unwanted, when not empty, says why the
// deploy is to be given up whatever the clusters say.
func Decide(p Plan, seen map[string]Seen, unwanted string) Next {
	in := func(phases ...Phase) []string {
		return slices.DeleteFunc(p.clusters(), func(name string) bool { return !slices.Contains(phases, seen[name].Phase) })
	}
	if lost := in(Overtaken); len(lost) > 0 {
		return Next{Kind: Lost, Clusters: lost, Why: fmt.Sprintf("cluster %s: %s", lost[0], seen[lost[0]].Why)}
	}
	failed := in(Failed, Returning, Returned, Stuck)
	if unwanted != "" || len(failed) > 0 {
		why := unwanted
		if why == "" {
			cause := append(in(Failed), failed...)[0] // rather than what is taken back for it
			why = fmt.Sprintf("cluster %s: %s", cause, seen[cause].Why)
		}
		if moving := in(Moving); len(moving) > 0 {
			return Next{Kind: Abort, Clusters: moving, Why: why}
		}
		if back := p.toTakeBack(seen, unwanted != ""); len(back) > 0 {
			return Next{Kind: TakeBack, Clusters: back, Why: why}
		}
		return Next{Kind: GaveUp, Why: why + p.left(seen)}
	}
	var earlier []string
	for i, wave := range p.Waves {
		open := slices.DeleteFunc(slices.Clone(wave), func(name string) bool { return seen[name].Phase == Verified })
		if len(open) == 0 {
			earlier = append(earlier, wave...)
			continue
		}
		next := Next{Kind: Start, Clusters: open, Wave: i}
		begun := len(open) < len(wave) || slices.ContainsFunc(open, func(name string) bool { return seen[name].Phase == Moving && !seen[name].Pending })
		if i > 0 && !begun {
			next.Earlier, next.Asks = earlier, p.Approval != nil
			for _, name := range earlier {
				if until := seen[name].Verified.Add(p.Hold); seen[name].Mine && until.After(next.Until) {
					next.Until = until
				}
			}
		}
		return next
	}
	return Next{Kind: Done}
}

// toTakeBack lists the clusters that go back, the last to move first.
func (p Plan) toTakeBack(seen map[string]Seen, all bool) []string {
	var back []string
	for _, name := range slices.Backward(p.clusters()) {
		switch s := seen[name]; {
		case s.Phase == Returning:
			back = append(back, name)
		case s.Phase == Verified && s.Mine && s.Base != 0 && (all || !p.KeepEarlier):
			back = append(back, name)
		}
	}
	return back
}

// left tells what stays with the release though the deploy was given up.
func (p Plan) left(seen map[string]Seen) string {
	var keep, stuck []string
	for _, name := range p.clusters() {
		switch s := seen[name]; {
		case s.Phase == Verified && s.Mine:
			keep = append(keep, name)
		case s.Phase == Stuck:
			stuck = append(stuck, name)
		}
	}
	text := ""
	if len(keep) > 0 {
		text += "; it stays in " + strings.Join(keep, ", ")
		if !p.KeepEarlier {
			text += ", where there is nothing verified to go back to"
		}
	}
	if len(stuck) > 0 {
		text += "; going back failed in " + strings.Join(stuck, ", ") + ": look there"
	}
	return text
}
