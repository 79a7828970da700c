package pipeline

import "fmt"

// blueGreenSteps are before the switch and after it.
const blueGreenSteps = 2

// checkGates checks what a gate's keys say together; steps is how many the strategy has.
func (d *decoder) checkGates(path string, gates []GateSpec, steps int) {
	names := map[string]bool{}
	for i := range gates {
		at := fmt.Sprintf("%s[%d]", path, i)
		name, key, held := gates[i].common()
		if key == "" {
			d.add(d.at(at), RuleRequired, "write metric:, job:, webhook:, approval: or cel:", "%s says nothing to judge", at)
			continue
		}
		for _, other := range []string{"metric", "job", "webhook", "approval", "cel"} {
			if other != key && d.has(at+"."+other) {
				d.add(d.keyAt(at+"."+other), RuleKind, "make it a gate of its own", "a gate is of one kind, not %s and %s", key, other)
			}
		}
		if gates[i].Metric != nil {
			d.checkMetric(at+".metric", gates[i].Metric)
		}
		if name != "" && names[name] {
			d.add(d.at(at+"."+key+".name"), RuleDuplicate, "give it another name", "two gates are named %q", name)
		}
		names[name] = true
		for j, step := range held {
			if step > steps {
				d.add(d.at(fmt.Sprintf("%s.%s.steps[%d]", at, key, j)), RuleUnreachable, "", "there is no step %d: the strategy has %d", step, steps)
			}
		}
	}
}

// checkHooks checks that no two hooks of a deploy share a name.
func (d *decoder) checkHooks(path string, hooks *HooksSpec) {
	if hooks == nil {
		return
	}
	names := map[string]bool{}
	for _, phase := range []struct {
		key   string
		hooks []HookSpec
	}{{"before", hooks.Before}, {"after", hooks.After}, {"on-failure", hooks.OnFailure}} {
		for i, hook := range phase.hooks {
			if hook.Name != "" && names[hook.Name] {
				d.add(d.at(fmt.Sprintf("%s.%s[%d].name", path, phase.key, i)), RuleDuplicate, "give it another name", "two hooks are named %q", hook.Name)
			}
			names[hook.Name] = true
		}
	}
}

// checkUncompared refuses gates that need a baseline where there is none.
func (d *decoder) checkUncompared(path string, gates []GateSpec) {
	for i, gate := range gates {
		for _, key := range []string{"bad", "total", "value"} {
			if at := fmt.Sprintf("%s[%d].metric.%s", path, i, key); gate.Metric != nil && d.has(at) {
				d.add(d.keyAt(at), RuleKind, "write query with min or max, or use a canary",
					"%s is compared with a baseline, and only a canary has one", at)
				break
			}
		}
	}
}

func (d *decoder) checkMetric(path string, m *MetricSpec) {
	d.checkSource(path, m)
	kinds := 0
	for _, given := range []bool{m.Query != "", m.Bad != "" || m.Total != "", m.Value != ""} {
		if given {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		d.add(d.at(path), RuleRequired, "query is judged by min and max; bad and total, or value, against a baseline",
			"%s needs query, or bad and total, or value", path)
	case (m.Bad == "") != (m.Total == ""):
		d.add(d.at(path), RuleRequired, "give both", "%s needs bad and total", path)
	case m.Query != "" && m.Min == nil && m.Max == nil:
		d.add(d.keyAt(path+".query"), RuleRequired, "give min, max or both", "%s.query has no bound", path)
	case m.Min != nil && m.Max != nil && *m.Min > *m.Max:
		d.add(d.at(path+".min"), RuleValue, "", "%s.min is above max: nothing can pass", path)
	}
	for key, belongs := range map[string]bool{"min": m.Query != "", "max": m.Query != "", "tolerate": m.Query != "",
		"ratio": m.Query == "", "higher-is-better": m.Value != ""} {
		if kinds == 1 && !belongs && d.has(path+"."+key) {
			d.add(d.keyAt(path+"."+key), RuleUnreachable, "remove it", "%s.%s has no effect here", path, key)
		}
	}
}
