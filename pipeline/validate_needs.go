package pipeline

import (
	"fmt"
	"slices"
	"strings"
)

// checkNeeds checks that every need exists and that no stage waits for itself.
// It returns whether the graph has no cycle.
func (d *decoder) checkNeeds(p *Pipeline) bool {
	ordinary, finally := stageNames(p.Stages), stageNames(p.Finally)
	for i := range p.Stages {
		d.checkStageNeeds("stages.", &p.Stages[i], ordinary, finally,
			"a finally stage runs after all others: move the stage under finally")
	}
	for i := range p.Finally {
		d.checkStageNeeds("finally.", &p.Finally[i], finally, ordinary,
			"remove it: a finally stage runs after every other stage anyway")
	}
	first := d.checkCycles("stages.", p.Stages)
	second := d.checkCycles("finally.", p.Finally)
	return first && second
}

func stageNames(stages []Stage) []string {
	names := make([]string, len(stages))
	for i, stage := range stages {
		names[i] = stage.Name
	}
	return names
}

func (d *decoder) checkStageNeeds(prefix string, s *Stage, known, other []string, otherHint string) {
	for i, need := range s.Needs {
		at := d.at(fmt.Sprintf("%s%s.needs[%d]", prefix, s.Name, i))
		switch {
		case need == "" || slices.Contains(known, need):
		case slices.Contains(other, need):
			d.add(at, RuleNeeds, otherHint, "stage %q cannot need %q, which is in the other group of stages", s.Name, need)
		case stageName.MatchString(need):
			d.add(at, RuleNeeds, didYouMean(need, known), "stage %q needs %q, which does not exist", s.Name, clip(need))
		}
	}
}

// checkCycles reports each cycle it meets, beginning with the stage that the
// file names first.
func (d *decoder) checkCycles(prefix string, stages []Stage) bool {
	index := map[string]int{}
	for i, stage := range stages {
		index[stage.Name] = i
	}
	const (
		unseen = iota
		open
		done
	)
	state := make([]int, len(stages))
	var path []int
	acyclic := true
	var visit func(i int)
	visit = func(i int) {
		state[i] = open
		path = append(path, i)
		for _, need := range stages[i].Needs {
			j, ok := index[need]
			switch {
			case !ok:
			case state[j] == unseen:
				visit(j)
			case state[j] == open:
				acyclic = false
				d.addCycle(prefix, stages, path[slices.Index(path, j):])
			}
		}
		path = path[:len(path)-1]
		state[i] = done
	}
	for i := range stages {
		if state[i] == unseen {
			visit(i)
		}
	}
	return acyclic
}

func (d *decoder) addCycle(prefix string, stages []Stage, cycle []int) {
	first := slices.Index(cycle, slices.Min(cycle))
	cycle = slices.Concat(cycle[first:], cycle[:first], cycle[first:first+1])
	names := make([]string, len(cycle))
	for i, at := range cycle {
		names[i] = stages[at].Name
	}
	item := slices.Index(stages[cycle[0]].Needs, names[1])
	at := d.at(fmt.Sprintf("%s%s.needs[%d]", prefix, names[0], item))
	if len(cycle) == 2 {
		d.add(at, RuleCycle, "remove it from its needs", "stage %q needs itself", names[0])
		return
	}
	d.add(at, RuleCycle, "remove one of these needs", "stages wait for each other: %s", strings.Join(names, " → "))
}

// ancestors returns, by stage, all that it needs, directly or not.
func ancestors(stages []Stage) map[string]map[string]bool {
	byName := map[string]*Stage{}
	for i := range stages {
		byName[stages[i].Name] = &stages[i]
	}
	out := map[string]map[string]bool{}
	var collect func(name string) map[string]bool
	collect = func(name string) map[string]bool {
		if known, ok := out[name]; ok {
			return known
		}
		all := map[string]bool{}
		out[name] = all
		stage := byName[name]
		if stage == nil {
			return all
		}
		for _, need := range stage.Needs {
			all[need] = true
			for above := range collect(need) {
				all[above] = true
			}
		}
		return all
	}
	for _, stage := range stages {
		collect(stage.Name)
	}
	return out
}
