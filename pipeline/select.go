package pipeline

import (
	"slices"
)

// Select returns a plan of only the named stages and what they need, directly
// or not. A name means a stage's ID or all stages made from it (of a matrix, or
// with the approval in front). Finally stages stay. An unknown name is a
// CauseInvalid error.
func (p *Plan) Select(names []string) (*Plan, error) {
	wanted := map[string]bool{}
	for _, name := range names {
		found := false
		for _, stage := range p.Stages {
			if stage.ID == name || stage.Name == name {
				wanted[stage.ID], found = true, true
			}
		}
		if !found {
			return nil, Fail(CauseInvalid, "there is no stage %q: %s", name, didYouMean(name, p.stageIDs()))
		}
	}
	selected := *p
	selected.Stages = nil
	// Needs come before those that need them, so one walk from the end finds all.
	for _, stage := range slices.Backward(p.Stages) {
		if !wanted[stage.ID] && !stage.Finally {
			continue
		}
		for _, need := range stage.Needs {
			wanted[need] = true
		}
		selected.Stages = append(selected.Stages, stage)
	}
	slices.Reverse(selected.Stages)
	return &selected, nil
}

func (p *Plan) stageIDs() []string {
	ids := make([]string, len(p.Stages))
	for i, stage := range p.Stages {
		ids[i] = stage.ID
	}
	return ids
}
