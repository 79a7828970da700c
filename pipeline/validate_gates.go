package pipeline

import "fmt"

// checkGates checks what a gate's keys say together.
func (d *decoder) checkGates(path string, gates []GateSpec) {
	names := map[string]bool{}
	for i, gate := range gates {
		at := fmt.Sprintf("%s[%d]", path, i)
		if gate.Metric == nil {
			d.add(d.at(at), RuleRequired, "write metric:", "%s says nothing to judge", at)
			continue
		}
		d.checkMetric(at+".metric", gate.Metric)
		if names[gate.Metric.Name] {
			d.add(d.at(at+".metric.name"), RuleDuplicate, "give it another name", "two gates are named %q", gate.Metric.Name)
		}
		names[gate.Metric.Name] = true
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
	if (m.Prometheus == "") == (m.HTTP == "") {
		d.add(d.at(path), RuleRequired, "name prometheus or http", "%s needs exactly one source", path)
	}
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
