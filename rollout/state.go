package rollout

import (
	"fmt"
	"slices"
	"time"
)

// State is where a rollout stands.
type State string

// The states. The last four are final.
const (
	Pending     State = "pending"      // accepted and recorded, nothing written yet
	Applying    State = "applying"     // objects are being written
	Canary      State = "canary"       // a canary runs beside the stable workload
	Preview     State = "preview"      // the new version runs beside the stable one, without live traffic
	Switched    State = "switched"     // the live Services send to the new version, the old one is kept
	Promoting   State = "promoting"    // the release is being written to the stable workload
	Rolling     State = "rolling"      // the stable workload moves to the new version
	Finishing   State = "finishing"    // passed; canary, settings and old objects are tidied up
	RollingBack State = "rolling_back" // going back to the base
	Withdrawing State = "withdrawing"  // a newer release came: clearing the way for it
	Verified    State = "verified"
	RolledBack  State = "rolled_back"
	Failed      State = "failed"
	Superseded  State = "superseded"
)

// States lists all of them, in the order in which a rollout may pass them.
func States() []State {
	return []State{Pending, Applying, Canary, Preview, Switched, Promoting, Rolling, Finishing, RollingBack, Withdrawing, Verified, RolledBack, Failed, Superseded}
}

// Final tells whether nothing more will happen.
func (s State) Final() bool {
	switch s {
	case Verified, RolledBack, Failed, Superseded:
		return true
	}
	return false
}

// need is what a transition asks for.
type need int

const (
	nothing need = iota
	passedGate
)

// transitions is the whole of what may follow what. A state that follows itself
// is the next step of a canary or the next batch: that needs a gate, too. From
// rolling the next wave is applied; going back, the wave before follows.
var transitions = map[State]map[State]need{
	Pending:     {Applying: nothing, RollingBack: nothing, Withdrawing: nothing, Failed: nothing},
	Applying:    {Canary: nothing, Preview: nothing, Rolling: nothing, RollingBack: nothing, Withdrawing: nothing},
	Canary:      {Canary: passedGate, Promoting: passedGate, RollingBack: nothing, Withdrawing: nothing},
	Preview:     {Switched: passedGate, RollingBack: nothing, Withdrawing: nothing},
	Switched:    {Promoting: passedGate, RollingBack: nothing, Withdrawing: nothing},
	Promoting:   {Rolling: nothing, RollingBack: nothing, Withdrawing: nothing},
	Rolling:     {Rolling: passedGate, Applying: passedGate, Finishing: passedGate, RollingBack: nothing, Withdrawing: nothing},
	Finishing:   {Verified: nothing},
	RollingBack: {RollingBack: nothing, RolledBack: nothing, Failed: nothing, Withdrawing: nothing},
	Withdrawing: {Superseded: nothing},
}

// proof is a gate that passed. Only the judges in gate.go make one, so that no
// promotion can be written down without.
type proof struct {
	gate Gate
	// metrics are those of the step that passed with it.
	metrics []Gate
}

// Move is a transition to record. Its zero fields change nothing.
type Move struct {
	To    State
	Step  int // of the canary, with To == Canary; counted in blue-green and in batches, too
	Proof *proof
	// Waves is how many waves it goes on; -1 goes back by one.
	Waves int

	Ending  Ending
	EndedBy string
	Failure *Failure
}

// move applies m to r. It is the only place where State changes.
func (r *Rollout) move(m Move, now time.Time) error {
	asks, ok := transitions[r.State][m.To]
	if !ok {
		return fmt.Errorf("no way from state %s to %s", r.State, m.To)
	}
	if asks == passedGate && (m.Proof == nil || !m.Proof.gate.Passed) {
		return fmt.Errorf("no way from state %s to %s without a gate that passed", r.State, m.To)
	}
	if next := r.Wave + m.Waves; m.Waves != 0 && (next < 0 || next >= len(r.Waves)) {
		return fmt.Errorf("no wave %d: there are %d", next+1, len(r.Waves))
	}
	if m.Proof != nil {
		if len(r.Waves) > 0 {
			m.Proof.gate.Wave = r.Wave + 1
		}
		r.Gates = append(append(r.Gates, m.Proof.metrics...), m.Proof.gate)
		if extra := len(r.Gates) - maxGates; extra > 0 {
			r.Gates = slices.Delete(r.Gates, 0, extra)
		}
	}
	r.State, r.Step, r.Wave = m.To, m.Step, r.Wave+m.Waves
	r.Path = append(r.Path, Passage{State: m.To, Step: m.Step, At: now})
	if extra := len(r.Path) - maxPath; extra > 0 {
		r.Path = slices.Delete(r.Path, 0, extra)
	}
	r.StateSince, r.StepReadyAt, r.LastProgress, r.Peak = now, time.Time{}, time.Time{}, 0
	if m.Ending != "" {
		r.Ending, r.EndedBy = m.Ending, m.EndedBy
	}
	if m.Failure != nil {
		r.Failure = m.Failure
	}
	switch m.To {
	case Applying:
		// Recorded before it happens: whoever takes over must know.
		r.StableTouched = r.StableTouched || r.inPlace()
	case Canary:
		r.StableTouched = r.StableTouched || len(r.Partitioned) > 0
	case Promoting:
		r.StableTouched = true
	case RollingBack, Withdrawing:
		r.Paused, r.PausedBy, r.PausedAt = false, "", time.Time{}
		r.Restored = false
	}
	if m.To.Final() {
		r.Finished = now
	}
	return nil
}

// shift moves all times that something is measured from, by the time for which
// nobody watched or the clock stepped; none beyond now.
func (r *Rollout) shift(by time.Duration, now time.Time) {
	times := []*time.Time{&r.StateSince, &r.StepReadyAt, &r.LastProgress, &r.PausedAt}
	for i := range r.HookRuns {
		times = append(times, &r.HookRuns[i].At)
	}
	for _, t := range times {
		if t.IsZero() {
			continue
		}
		if *t = t.Add(by); t.After(now) {
			*t = now
		}
	}
}

// maxUnwatched is how long nobody may have watched before that time is taken
// out of what deadlines measure. A clock that stepped looks just the same.
const maxUnwatched = 20 * time.Second

// resume adapts a rollout that another process left. watched is when its owner
// last renewed its lease, by the owner's clock; now is by ours.
func (r *Rollout) resume(watched, now time.Time) {
	if gap := now.Sub(watched); !watched.IsZero() && (gap < 0 || gap > maxUnwatched) {
		r.shift(gap, now)
	}
}

// advance moves the current rollout and keeps the record in step with it.
func (r *Record) advance(m Move, now time.Time) error {
	from := r.Current.State
	if err := r.Current.move(m, now); err != nil {
		return err
	}
	r.note(from, now)
	if c := r.Current; c.StableTouched && (c.State == Applying || c.State == Canary || c.State == Promoting) {
		r.Stable = c.Revision
	}
	r.finish()
	return nil
}

// sampledHistory is how many of the newest rollouts keep the samples of their
// metric gates; older ones keep the verdicts.
const sampledHistory = 2

// finish moves the ended current rollout into the history, bounded: the
// verified revision and the newest stay.
func (r *Record) finish() {
	if r.Current == nil || !r.Current.State.Final() {
		return
	}
	if r.Current.Verified() {
		r.Verified = r.Current.Revision
	}
	r.History = slices.DeleteFunc(r.History, func(h Rollout) bool { return h.Revision == r.Current.Revision })
	r.History = slices.Insert(r.History, 0, *r.Current)
	for i := sampledHistory; i < len(r.History); i++ {
		for j := range r.History[i].Analyses {
			r.History[i].Analyses[j].Samples = nil
		}
		for j := range r.History[i].Checks {
			r.History[i].Checks[j].Log, r.History[i].Checks[j].Facts = nil, nil
		}
		for j := range r.History[i].HookRuns {
			r.History[i].HookRuns[j].Log = nil
		}
	}
	for len(r.History) > MaxHistory {
		last := len(r.History) - 1
		// The revision to go back to outlives any number of failures after it.
		if r.History[last].Revision == r.Verified {
			last--
		}
		r.History = slices.Delete(r.History, last, last+1)
	}
}
