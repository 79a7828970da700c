package pipeline

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// PlanFor binds a pipeline to an event. It expands matrices, splits approvals
// off, evaluates every expression that depends on the event alone, decides the
// conditions that can be decided and puts the stages into an order in which
// each comes after those it needs. Equal input gives an equal plan. Whether the
// event starts the pipeline at all is for Triggers.Match to say.
//
// Errors have CauseInvalid and name the place in the file.
func PlanFor(p *Pipeline, e event.Event) (*Plan, error) {
	inputs, err := bindInputs(p, e)
	if err != nil {
		return nil, err
	}
	view := viewOf(e)
	plan := &Plan{Pipeline: p.Name, File: p.Pos.File, Event: e, Inputs: inputs}
	if p.Concurrency != nil {
		group, err := fillTemplate(p.Concurrency.Group, &values{event: view, inputs: inputs})
		if err != nil {
			return nil, Fail(CauseInvalid, "%s: concurrency.group: %w", p.Pos, err)
		}
		plan.ConcurrencyGroup, plan.CancelInProgress = unescapeTemplate(group), p.Concurrency.CancelInProgress
	}
	b := planner{pipeline: p, view: view, inputs: inputs, nodes: map[string][]string{}}
	for i := range p.Stages {
		if err := b.add(&p.Stages[i], false); err != nil {
			return nil, err
		}
	}
	for i := range p.Finally {
		if err := b.add(&p.Finally[i], true); err != nil {
			return nil, err
		}
	}
	if plan.Stages, err = b.ordered(); err != nil {
		return nil, err
	}
	return plan, nil
}

// planner collects the nodes of a plan.
type planner struct {
	pipeline *Pipeline
	view     *eventView
	inputs   map[string]string
	stages   []PlannedStage
	// nodes holds the IDs that a need on a stage's name means.
	nodes map[string][]string
}

// add plans a stage: one node for each combination of its matrix, and an
// approval in front when the stage does something else as well.
func (b *planner) add(s *Stage, finally bool) error {
	if hasKey(b.nodes, s.Name) {
		return Fail(CauseInvalid, "%s: there are two stages %q", s.Pos, s.Name)
	}
	if count := combinations(s.Matrix); count > MaxMatrix {
		return Fail(CauseInvalid, "%s: the matrix of stage %q has %d combinations; at most %d are allowed", s.Pos, s.Name, count, MaxMatrix)
	}
	base := *s
	var approval *PlannedStage
	if s.Approve != nil && s.kind() != KindApprove {
		split := PlannedStage{
			ID: s.Name + "/approval", Name: s.Name, Kind: KindApprove, Needs: s.Needs, Finally: finally,
			Timeout: approvalTimeout(s.Approve), Pos: s.Pos,
		}
		if err := b.bind(&split, Stage{Name: s.Name, When: s.When, Approve: s.Approve, Pos: s.Pos}, nil); err != nil {
			return err
		}
		approval = &split
		// Only a granted approval lets the stage run; that the condition held
		// is what the approval being asked at all means.
		base.Approve, base.Needs, base.When = nil, nil, ""
	}
	if approval != nil {
		b.stages = append(b.stages, *approval)
	}
	for _, combination := range combine(s.Matrix) {
		node := PlannedStage{
			ID: nodeID(s.Name, s.Matrix, combination), Name: s.Name, Kind: s.kind(), Needs: base.Needs, Finally: finally,
			Matrix: combination, Retry: s.Retry, Timeout: s.Timeout, Pos: s.Pos,
		}
		switch {
		case node.Kind == KindApprove:
			node.Timeout = approvalTimeout(s.Approve)
		case node.Timeout == 0:
			node.Timeout = DefaultTimeout
		}
		if err := b.bind(&node, base, combination); err != nil {
			return err
		}
		if approval != nil {
			node.Needs = []string{approval.ID}
			if approval.When == decidedAgainst {
				node.When = decidedAgainst
			}
		}
		b.stages = append(b.stages, node)
		b.nodes[s.Name] = append(b.nodes[s.Name], node.ID)
	}
	if len(b.stages) > MaxStages {
		return Fail(CauseInvalid, "%s: with every matrix expanded there are more than %d stages", s.Pos, MaxStages)
	}
	return nil
}

// kind is what a stage does; an approval beside something else is only asked first.
func (s *Stage) kind() KindName {
	switch {
	case s.Run != nil:
		return KindRun
	case s.Build != nil:
		return KindBuild
	case s.Deploy != nil:
		return KindDeploy
	}
	return KindApprove
}

func approvalTimeout(a *ApproveSpec) time.Duration {
	if a.Timeout == 0 {
		return DefaultApprovalTimeout
	}
	return a.Timeout
}

// bind fills the node with the values of the stage.
func (b *planner) bind(node *PlannedStage, s Stage, combination map[string]string) error {
	vars := &values{event: b.view, matrix: combination, inputs: b.inputs}
	when, err := decide(s.When, vars)
	if err != nil {
		return Fail(CauseInvalid, "%s: stage %q: when: %w", s.Pos, node.ID, err)
	}
	node.When = when
	if node.Kind == KindApprove {
		s.Env = nil
	} else {
		s.Env = mergedEnv(b.pipeline.Env, s.Env)
	}
	bound, err := fillStage(s, vars)
	if err != nil {
		return Fail(CauseInvalid, "%s: stage %q: %w", s.Pos, node.ID, err)
	}
	node.Retry.On = bound.Retry.On
	node.Env, node.Run, node.Build, node.Deploy, node.Approve = bound.Env, bound.Run, bound.Build, bound.Deploy, bound.Approve
	for name, value := range combination {
		if node.Env == nil {
			node.Env = map[string]string{}
		}
		node.Env["MATRIX_"+strings.ToUpper(name)] = escapeTemplate(value)
	}
	return nil
}

func mergedEnv(outer, inner map[string]string) map[string]string {
	if len(outer) == 0 {
		return inner
	}
	merged := maps.Clone(outer)
	maps.Copy(merged, inner)
	return merged
}

// decidedAgainst is the condition of a stage that planning knows will not run.
const decidedAgainst = "false"

// decide evaluates a condition as far as the event allows: "false" when it
// cannot hold, "" when only the default is left of it, else the condition.
func decide(when string, vars *values) (string, error) {
	if when == "" {
		return "", nil
	}
	e, err := compile(when)
	if err != nil {
		return "", err
	}
	value, err := e.evaluate(vars)
	switch {
	case errors.Is(err, errNotYet):
		return when, nil
	case err != nil:
		if e.later {
			// It may read better once the stages have ended.
			return when, nil
		}
		return "", err
	case value.Value() == false:
		return decidedAgainst, nil
	case value.Value() != true:
		return "", fmt.Errorf("the condition gives a %s, not true or false", value.Type().TypeName())
	case e.status:
		return when, nil
	}
	return "", nil
}

// ordered replaces needs by IDs and sorts the stages: each after those it
// needs, otherwise as in the file, finally stages last.
func (b *planner) ordered() ([]PlannedStage, error) {
	index := map[string]int{}
	for i := range b.stages {
		index[b.stages[i].ID] = i
	}
	for i := range b.stages {
		s := &b.stages[i]
		var needs []string
		for _, need := range s.Needs {
			ids, ok := b.nodes[need]
			if _, isID := index[need]; !ok && isID {
				ids, ok = []string{need}, true
			}
			if !ok {
				return nil, Fail(CauseInvalid, "%s: stage %q needs %q, which does not exist", s.Pos, s.ID, need)
			}
			for _, id := range ids {
				if !slices.Contains(needs, id) {
					needs = append(needs, id)
				}
			}
		}
		s.Needs = needs
	}
	const (
		unseen = iota
		open
		done
	)
	state := make([]int, len(b.stages))
	out := make([]PlannedStage, 0, len(b.stages))
	var visit func(i int) error
	visit = func(i int) error {
		s := b.stages[i]
		if state[i] == open {
			return Fail(CauseInvalid, "%s: stage %q waits for itself", s.Pos, s.ID)
		}
		if state[i] == done {
			return nil
		}
		state[i] = open
		for _, need := range s.Needs {
			other := b.stages[index[need]]
			if other.Finally != s.Finally {
				return Fail(CauseInvalid, "%s: stage %q cannot need %q: finally stages run after all others", s.Pos, s.ID, other.ID)
			}
			if err := visit(index[need]); err != nil {
				return err
			}
		}
		state[i] = done
		out = append(out, s)
		return nil
	}
	for _, finally := range []bool{false, true} {
		for i := range b.stages {
			if b.stages[i].Finally == finally {
				if err := visit(i); err != nil {
					return nil, err
				}
			}
		}
	}
	return out, nil
}
