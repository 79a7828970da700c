package pipeline

import (
	"fmt"
	"maps"
	"slices"
)

// StageResult is how a stage of a run ended, as conditions see it.
type StageResult struct {
	// Status is a final status: succeeded, failed, cancelled, skipped or refused.
	Status  string
	Outputs Outputs
}

// The statuses that conditions know; the journal's final statuses.
const (
	statusSucceeded = "succeeded"
	statusFailed    = "failed"
	statusCancelled = "cancelled"
	statusSkipped   = "skipped"
	statusRefused   = "refused"
)

// EvaluateWhen tells whether a stage runs (true) or is skipped, once every
// stage that it needs has ended (for a finally stage: every stage that is not
// one). States holds their results by ID.
//
// Without a condition a stage runs when every need succeeded, so a skipped need
// skips its dependants; a finally stage always runs. A condition is looked at
// only when every need succeeded, unless it calls one of
//
//	always()   true
//	success()  every need succeeded
//	failure()  a stage that it needs, directly or not, failed or was refused
//
// in which case it alone decides. In a finally stage the condition alone always
// decides; there success() means that no other stage failed, was refused or was
// cancelled, and failure() that one failed or was refused.
//
// Errors have CauseInvalid (the condition cannot be evaluated, for example
// because an output is missing), or tell that a need has not ended.
func EvaluateWhen(stage PlannedStage, plan *Plan, states map[string]StageResult) (run bool, err error) {
	for _, need := range stage.Needs {
		if state := states[need]; !finalStatus(state.Status) {
			return false, fmt.Errorf("stage %q needs %q, which has not ended (%q)", stage.ID, need, state.Status)
		}
	}
	switch {
	case stage.When == decidedAgainst:
		return false, nil
	case stage.When == "" && stage.Finally:
		return true, nil
	case stage.When == "":
		return needsSucceeded(&stage, states), nil
	}
	e, err := compile(stage.When)
	if err != nil {
		return false, Fail(CauseInvalid, "%s: stage %q: when: %w", stage.Pos, stage.ID, err)
	}
	if !e.status && !stage.Finally && !needsSucceeded(&stage, states) {
		return false, nil
	}
	vars := &values{event: viewOf(plan.Event), matrix: stage.Matrix, inputs: plan.Inputs, ended: endedFor(&stage, plan, states)}
	value, err := e.evaluate(vars)
	if err != nil {
		return false, Fail(CauseInvalid, "%s: stage %q: when: %w", stage.Pos, stage.ID, err)
	}
	decision, ok := value.Value().(bool)
	if !ok {
		return false, Fail(CauseInvalid, "%s: stage %q: when gives a %s, not true or false", stage.Pos, stage.ID, value.Type().TypeName())
	}
	return decision, nil
}

func finalStatus(status string) bool {
	switch status {
	case statusSucceeded, statusFailed, statusCancelled, statusSkipped, statusRefused:
		return true
	}
	return false
}

func needsSucceeded(stage *PlannedStage, states map[string]StageResult) bool {
	return !slices.ContainsFunc(stage.Needs, func(need string) bool { return states[need].Status != statusSucceeded })
}

// endedFor is what the expressions of a stage see of the stages before it.
func endedFor(stage *PlannedStage, plan *Plan, states map[string]StageResult) *endedStages {
	visible := visibleTo(stage, plan)
	ended := &endedStages{stages: make(map[string]*stageView, len(visible)), success: true}
	groups := map[string][]*stageView{}
	for _, other := range visible {
		state, known := states[other.ID]
		if !known {
			continue
		}
		view := &stageView{Status: state.Status, Outputs: orEmpty(state.Outputs)}
		ended.stages[other.ID] = view
		if other.Kind != KindApprove || other.ID == other.Name {
			groups[other.Name] = append(groups[other.Name], view)
		}
		switch state.Status {
		case statusFailed, statusRefused:
			ended.failed = true
			ended.success = false
		case statusCancelled:
			ended.success = false
		}
	}
	if !stage.Finally {
		ended.success = needsSucceeded(stage, states)
	}
	for name, views := range groups {
		if ended.stages[name] == nil {
			ended.stages[name] = aggregate(views)
		}
	}
	return ended
}

// visibleTo returns the stages before a stage in the order of the plan: those
// it needs, directly or not; for a finally stage all that are not finally, too.
func visibleTo(stage *PlannedStage, plan *Plan) []*PlannedStage {
	needed := map[string]bool{}
	for _, need := range stage.Needs {
		needed[need] = true
	}
	// The plan is in topological order, so going backwards meets every
	// dependant before what it needs.
	var visible []*PlannedStage
	for i := len(plan.Stages) - 1; i >= 0; i-- {
		other := &plan.Stages[i]
		if !needed[other.ID] && (!stage.Finally || other.Finally) {
			continue
		}
		visible = append(visible, other)
		for _, need := range other.Needs {
			needed[need] = true
		}
	}
	slices.Reverse(visible)
	return visible
}

// aggregate is how the nodes of a matrix ended together: the worst status, and
// all outputs, those of later nodes winning.
func aggregate(views []*stageView) *stageView {
	order := []string{statusFailed, statusRefused, statusCancelled, statusSkipped, statusSucceeded}
	all := &stageView{Status: statusSucceeded, Outputs: map[string]string{}}
	for _, view := range views {
		if slices.Index(order, view.Status) < slices.Index(order, all.Status) {
			all.Status = view.Status
		}
		maps.Copy(all.Outputs, view.Outputs)
	}
	return all
}
