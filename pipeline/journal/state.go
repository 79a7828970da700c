package journal

import (
	"time"

	"github.com/tidegate-ci/tidegate/pipeline"
)

// State is where a run stands: the fold of its entries. The zero value is a
// run of which nothing is known.
type State struct {
	RunID string `json:"runID"`
	// Seq is the last entry folded in.
	Seq      int64          `json:"seq"`
	Status   Status         `json:"status"`
	Cause    pipeline.Cause `json:"cause,omitempty"`
	Message  string         `json:"message,omitempty"`
	Created  time.Time      `json:"created,omitzero"`
	Started  time.Time      `json:"started,omitzero"`
	Finished time.Time      `json:"finished,omitzero"`
	// Worker took the run last; Takeovers counts those after the first.
	Worker    string `json:"worker,omitempty"`
	Takeovers int    `json:"takeovers,omitempty"`
	// Cancel is the first request to cancel; later ones change nothing.
	Cancel *Cancellation `json:"cancel,omitempty"`
	// Stages are in the plan's order.
	Stages []StageState   `json:"stages"`
	Plan   *pipeline.Plan `json:"plan,omitempty"`

	index map[string]int
}

// Cancellation is who asked for the end of a run, and why.
type Cancellation struct {
	By      string         `json:"by"`
	Cause   pipeline.Cause `json:"cause"`
	Message string         `json:"message,omitempty"`
	Time    time.Time      `json:"time"`
}

// StageState is where one stage of a run stands.
type StageState struct {
	ID     string            `json:"id"`
	Kind   pipeline.KindName `json:"kind"`
	Status Status            `json:"status"`
	Cause  pipeline.Cause    `json:"cause,omitempty"`
	// Message is the reason of a final status, or the latest progress.
	Message   string              `json:"message,omitempty"`
	Attempts  []AttemptState      `json:"attempts,omitempty"`
	Outputs   pipeline.Outputs    `json:"outputs,omitempty"`
	Started   time.Time           `json:"started,omitzero"`
	Finished  time.Time           `json:"finished,omitzero"`
	Decisions []pipeline.Decision `json:"decisions,omitempty"`
}

// AttemptState is one try of a stage. It is open until Finished is set.
type AttemptState struct {
	Number int `json:"number"`
	// Started is the first start, also of an attempt that was continued.
	Started  time.Time        `json:"started"`
	Finished time.Time        `json:"finished,omitzero"`
	Cause    pipeline.Cause   `json:"cause,omitempty"`
	Message  string           `json:"message,omitempty"`
	Outputs  pipeline.Outputs `json:"-"`
	// Lost is set while the attempt is open but its worker is gone: the run was
	// taken since. It stays set if the attempt is then finished by the taker.
	Lost bool `json:"lost,omitempty"`
	// Interrupted is set when the worker stopped in good order.
	Interrupted bool `json:"interrupted,omitempty"`
	// Continued counts how often another worker went on with the attempt after
	// its worker died; orderly stops are not counted.
	Continued int `json:"continued,omitempty"`
}

// Open tells whether the attempt has not ended.
func (a AttemptState) Open() bool { return a.Finished.IsZero() }

// Last returns the newest attempt, nil before the first.
func (s *StageState) Last() *AttemptState {
	if len(s.Attempts) == 0 {
		return nil
	}
	return &s.Attempts[len(s.Attempts)-1]
}

// Open tells whether an attempt of the stage has begun and not ended.
func (s *StageState) Open() bool {
	last := s.Last()
	return last != nil && last.Open()
}

// transitions lists, for each entry type about a stage, the statuses in which
// a stage takes it. An entry in any other status changes nothing. Final
// statuses appear nowhere: final is final.
var transitions = map[Type][]Status{
	AttemptStarted:     {Pending, Waiting, Running},
	AttemptFinished:    {Waiting, Running},
	AttemptInterrupted: {Waiting, Running},
	StageProgress:      {Pending, Waiting, Running},
	DecisionMade:       {Pending, Waiting, Running},
	StageFinished:      {Pending, Waiting, Running},
}

// runTransitions is the same for entries about the run as a whole. The empty
// status is a run before its first entry.
var runTransitions = map[Type][]Status{
	RunCreated:      {""},
	RunStarted:      {Pending, Waiting, Running},
	CancelRequested: {Pending, Waiting, Running},
	RunFinished:     {Pending, Waiting, Running},
}

func allowed(table map[Type][]Status, t Type, in Status) bool {
	for _, s := range table[t] {
		if s == in {
			return true
		}
	}
	return false
}

// Fold returns the state after the entries. It is pure and total: entries that
// the transition tables do not allow change nothing but Seq.
func Fold(entries []Entry) State {
	var s State
	for i := range entries {
		s.Apply(entries[i])
	}
	return s
}

// Stage returns the stage with the id, nil if the plan has none such.
func (s *State) Stage(id string) *StageState {
	i, ok := s.index[id]
	if !ok {
		return nil
	}
	return &s.Stages[i]
}

// Planned returns what the plan says of the stage, nil if it holds none such.
func (s *State) Planned(id string) *pipeline.PlannedStage {
	i, ok := s.index[id]
	if !ok {
		return nil
	}
	return &s.Plan.Stages[i]
}

// Apply folds one more entry in. Entries at or before Seq were seen already
// and change nothing; an entry without a Seq is taken as the next.
func (s *State) Apply(e Entry) {
	if e.Seq == 0 {
		e.Seq = s.Seq + 1
	}
	if e.Seq <= s.Seq {
		return
	}
	s.Seq = e.Seq
	if _, aboutRun := runTransitions[e.Type]; aboutRun {
		if allowed(runTransitions, e.Type, s.Status) {
			s.applyRun(e)
		}
	} else if stage := s.Stage(e.Stage); stage != nil && !s.Status.Final() && allowed(transitions, e.Type, stage.Status) {
		stage.apply(e)
	}
	s.derive()
}

func (s *State) applyRun(e Entry) {
	switch e.Type {
	case RunCreated:
		if e.Plan == nil {
			return
		}
		s.RunID, s.Created, s.Plan, s.Status = e.RunID, e.Time, e.Plan, Pending
		s.Stages = make([]StageState, len(e.Plan.Stages))
		s.index = make(map[string]int, len(e.Plan.Stages))
		for i, planned := range e.Plan.Stages {
			s.Stages[i] = StageState{ID: planned.ID, Kind: planned.Kind, Status: Pending}
			s.index[planned.ID] = i
		}
	case RunStarted:
		if s.Started.IsZero() {
			s.Started = e.Time
		} else {
			s.Takeovers++
		}
		s.Worker, s.Status = e.Actor, Running
		for i := range s.Stages {
			if last := s.Stages[i].Last(); last != nil && last.Open() {
				last.Lost = true
			}
		}
	case CancelRequested:
		if s.Cancel == nil {
			s.Cancel = &Cancellation{By: e.Actor, Cause: e.Cause, Message: e.Message, Time: e.Time}
		}
	case RunFinished:
		if !e.Status.Final() {
			return
		}
		s.Status, s.Cause, s.Message, s.Finished = e.Status, e.Cause, e.Message, e.Time
	}
}

func (s *StageState) apply(e Entry) {
	last := s.Last()
	current := last != nil && last.Open() && last.Number == e.Attempt
	switch e.Type {
	case AttemptStarted:
		switch {
		case current:
			if !last.Interrupted {
				last.Continued++
			}
			last.Lost, last.Interrupted = false, false
		case (last == nil && e.Attempt == 1) || (last != nil && !last.Open() && e.Attempt == last.Number+1):
			s.Attempts = append(s.Attempts, AttemptState{Number: e.Attempt, Started: e.Time})
		default:
			return
		}
		if s.Started.IsZero() {
			s.Started = e.Time
		}
		s.Status, s.Message = Running, ""
		if s.Kind == pipeline.KindApprove {
			s.Status = Waiting
		}
	case AttemptFinished:
		if current {
			last.Finished, last.Cause, last.Message, last.Outputs = e.Time, e.Cause, e.Message, e.Outputs
			s.Status, s.Message = Running, e.Message
		}
	case AttemptInterrupted:
		if current {
			last.Interrupted, s.Message = true, e.Message
		}
	case StageProgress:
		switch {
		case e.Attempt == 0 && last == nil:
			s.Status, s.Message = Waiting, e.Message
		case current:
			s.Message = e.Message
		}
	case DecisionMade:
		if e.Decision != nil && s.Kind == pipeline.KindApprove {
			s.Decisions = append(s.Decisions, *e.Decision)
		}
	case StageFinished:
		if !e.Status.Final() || (last != nil && last.Open()) {
			return
		}
		s.Status, s.Cause, s.Message, s.Outputs, s.Finished = e.Status, e.Cause, e.Message, e.Outputs, e.Time
	}
}

// derive sets the run's status from its stages: a started run is waiting when
// something waits for a person or a turn and nothing runs.
func (s *State) derive() {
	if s.Started.IsZero() || s.Status.Final() {
		return
	}
	s.Status = Running
	waiting := false
	for i := range s.Stages {
		switch s.Stages[i].Status {
		case Running:
			return
		case Waiting:
			waiting = true
		}
	}
	if waiting {
		s.Status = Waiting
	}
}

// Summary returns the state as a row of a list.
func (s *State) Summary() Summary {
	out := Summary{
		ID: s.RunID, Status: s.Status, Cause: string(s.Cause), Message: s.Message,
		Created: s.Created, Started: s.Started, Finished: s.Finished,
	}
	if s.Plan != nil {
		e := s.Plan.Event
		out.Pipeline, out.Repository, out.Ref, out.Commit = s.Plan.Pipeline, e.Repository.FullName, e.Ref, e.Commit
		out.Event, out.Actor = string(e.Kind), e.Actor
	}
	return out
}
