package pipeline

import (
	"fmt"
	"slices"
	"strings"
)

// check applies the rules between values, once all of them are read.
func (d *decoder) check(p *Pipeline) {
	d.checkTriggers(&p.On)
	d.checkNames(p)
	for i := range p.Stages {
		d.checkStage("stages."+p.Stages[i].Name, &p.Stages[i], false)
	}
	for i := range p.Finally {
		d.checkStage("finally."+p.Finally[i].Name, &p.Finally[i], true)
	}
	acyclic := d.checkNeeds(p)
	d.checkPromotions(p)
	d.checkSize(p)
	d.checkExpressions(p, acyclic)
}

func (d *decoder) checkTriggers(on *Triggers) {
	for path, t := range map[string]*PushTrigger{"on.push": on.Push, "on.pull_request": on.PullRequest} {
		if t == nil {
			continue
		}
		for key, globs := range map[string][]string{
			".branches": t.Branches, ".branches-ignore": t.BranchesIgnore, ".tags": t.Tags, ".paths": t.Paths, ".paths-ignore": t.PathsIgnore,
		} {
			if len(globs) > 0 && !slices.ContainsFunc(globs, func(glob string) bool { return !strings.HasPrefix(glob, "!") }) {
				d.add(d.at(path+key+"[0]"), RuleUnreachable, `put "**" before them`, "%s holds only patterns that begin with !: nothing matches", path+key)
			}
		}
		d.checkOpposed(path+".branches", t.Branches, path+".branches-ignore", t.BranchesIgnore)
		d.checkOpposed(path+".paths", t.Paths, path+".paths-ignore", t.PathsIgnore)
	}
	seen := map[string]bool{}
	for i, schedule := range on.Schedule {
		key := strings.Join(strings.Fields(schedule.Cron), " ") + " " + schedule.Timezone
		if seen[key] {
			d.add(d.at(fmt.Sprintf("on.schedule[%d].cron", i)), RuleDuplicate, "remove one", "the schedule %q stands here twice", clip(schedule.Cron))
		}
		seen[key] = true
	}
	if on.Manual != nil {
		for name, input := range on.Manual.Inputs {
			d.checkInput("on.manual.inputs."+name, input)
		}
	}
}

// checkOpposed refuses a filter that lets nothing through.
func (d *decoder) checkOpposed(path string, globs []string, ignorePath string, ignored []string) {
	if len(globs) == 0 || !slices.ContainsFunc(globs, func(glob string) bool { return !slices.Contains(ignored, glob) }) {
		if len(globs) > 0 {
			d.add(d.at(ignorePath), RuleUnreachable, "remove one of them", "%s takes back all that %s lets in: nothing matches", ignorePath, path)
		}
	}
}

func (d *decoder) checkInput(path string, input Input) {
	choice := input.Type == "choice"
	switch {
	case choice && len(input.Choices) == 0:
		d.add(d.keyAt(path), RuleRequired, "add choices: [a, b]", "%s is of type choice and has no choices", path)
	case !choice && len(input.Choices) > 0:
		d.add(d.keyAt(path+".choices"), RuleValue, "set type: choice", "%s has choices and is not of type choice", path)
	}
	if !d.has(path + ".default") {
		return
	}
	if input.Required {
		d.add(d.keyAt(path+".required"), RuleUnreachable, "remove required or default", "%s is required and has a default: nobody would ever be asked", path)
	}
	if err := checkInputValue(input, input.Default); err != nil {
		d.add(d.at(path+".default"), RuleValue, "", "%s: %s", path+".default", err)
	}
}

func (d *decoder) checkNames(p *Pipeline) {
	for _, stage := range p.Finally {
		if slices.ContainsFunc(p.Stages, func(other Stage) bool { return other.Name == stage.Name }) {
			d.add(stage.Pos, RuleDuplicate, "rename one of them", "the name %q is taken by a stage above", stage.Name)
		}
	}
}

// runKeys are the keys of a stage that belong to its script.
var runKeys = []string{"image", "shell", "working-directory", "cache", "network"}

func (d *decoder) checkStage(path string, s *Stage, finally bool) {
	at := d.keyAt(path)
	var kinds []string
	for _, kind := range []string{"run", "build", "deploy"} {
		if d.has(path+"."+kind) || d.suggested[path+"."+kind] {
			kinds = append(kinds, kind)
		}
	}
	approve := d.has(path+".approve") || d.suggested[path+".approve"]
	if d.has(path) && d.nodes[path].kind == mapNode {
		switch {
		case len(kinds) == 0 && !approve:
			d.add(at, RuleKind, "add one of run, build, deploy and approve", "stage %q does nothing", s.Name)
		case len(kinds) > 1:
			d.add(d.keyAt(path+"."+kinds[1]), RuleKind, "split it into stages that need each other",
				"stage %q has several kinds: %s", s.Name, strings.Join(kinds, " and "))
		}
	}
	if !d.has(path+".run") && !d.suggested[path+".run"] {
		for _, key := range runKeys {
			if d.has(path + "." + key) {
				d.add(d.keyAt(path+"."+key), RuleKind, "remove it, or add run", "%q belongs to a script, and stage %q has no run", key, s.Name)
			}
		}
	}
	if d.has(path+".network") && !d.has(path+".image") && d.has(path+".run") {
		d.add(d.keyAt(path+".network"), RuleUnreachable, "remove it, or set image", "network has no effect without image: the host's network is used")
	}
	if d.has(path + ".build") {
		d.checkBuild(path + ".build")
	}
	if approve {
		d.checkApproval(path, finally, len(kinds) == 0)
	}
	if d.has(path+".retry.on") && s.Retry.Max == 0 && d.has(path+".retry.max") {
		d.add(d.keyAt(path+".retry.on"), RuleUnreachable, "set max to 1 or more", "retry.on has no effect with max: 0")
	}
	d.checkStrategy(path+".deploy.strategy", s)
}

func (d *decoder) checkApproval(path string, finally, alone bool) {
	if finally {
		d.add(d.keyAt(path+".approve"), RuleUnreachable, "move the stage under stages", "a finally stage runs whatever happened and cannot wait for approval")
	}
	if !alone {
		return
	}
	for key, hint := range map[string]string{
		"matrix": "remove it: an approval is asked once", "retry": "remove it: an answer is not repeated",
		"timeout": "set approve.timeout", "env": "remove it: an approval runs no command",
	} {
		if d.has(path + "." + key) {
			d.add(d.keyAt(path+"."+key), RuleUnreachable, hint, "%q has no effect on an approval", key)
		}
	}
}

func (d *decoder) checkStrategy(path string, s *Stage) {
	if s.Deploy == nil {
		return
	}
	d.checkSources(strings.TrimSuffix(path, ".strategy"), s.Deploy)
	d.checkHooks(strings.TrimSuffix(path, ".strategy")+".hooks", s.Deploy.Hooks)
	strategy := s.Deploy.Strategy
	first := ""
	for _, key := range []string{"rolling", "canary", "blue-green", "recreate"} {
		switch {
		case !d.has(path + "." + key):
		case first == "":
			first = key
		default:
			d.add(d.keyAt(path+"."+key), RuleKind, "remove one of them", "a deploy has one strategy, not %s and %s", first, key)
		}
	}
	if strategy.BlueGreen != nil {
		d.checkGates(path+".blue-green.gates", strategy.BlueGreen.Gates, blueGreenSteps)
		d.checkUncompared(path+".blue-green.gates", strategy.BlueGreen.Gates)
	}
	if strategy.Canary == nil {
		return
	}
	d.checkGates(path+".canary.gates", strategy.Canary.Gates, len(strategy.Canary.Steps))
	d.checkTraffic(path+".canary", strategy.Canary)
	for i := 1; i < len(strategy.Canary.Steps); i++ {
		before, now := strategy.Canary.Steps[i-1].Weight, strategy.Canary.Steps[i].Weight
		if before > 0 && now > 0 && now <= before {
			d.add(d.at(fmt.Sprintf("%s.canary.steps[%d].weight", path, i)), RuleUnreachable, "each step must send more than the one before",
				"the weight goes from %d to %d", before, now)
		}
	}
}

// combinations counts what a matrix expands to; 1 without one.
func combinations(matrix []MatrixAxis) int {
	count := 1
	for _, axis := range matrix {
		count *= max(1, len(axis.Values))
		if count > MaxStages*MaxMatrix {
			return count
		}
	}
	return count
}

func (d *decoder) checkSize(p *Pipeline) {
	total := 0
	for list, stages := range map[string][]Stage{"stages": p.Stages, "finally": p.Finally} {
		for _, stage := range stages {
			count := combinations(stage.Matrix)
			if count > MaxMatrix {
				d.add(d.keyAt(list+"."+stage.Name+".matrix"), RuleLimit, "leave some values out", "the matrix of stage %q has %d combinations; at most %d are allowed", stage.Name, count, MaxMatrix)
			}
			total += min(count, MaxMatrix)
			if stage.Approve != nil && (stage.Run != nil || stage.Build != nil || stage.Deploy != nil) {
				total++
			}
		}
	}
	if total > MaxStages {
		d.add(d.keyAt("stages"), RuleLimit, "split the pipeline", "with every matrix expanded there are %d stages; at most %d are allowed", total, MaxStages)
	}
}
