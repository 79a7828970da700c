package rollout

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"github.com/tidegate-ci/tidegate/rollout/analysis"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// expressionCost bounds one evaluation, in CEL's units of work.
const expressionCost = 100_000

// Facts are what an expression sees:
//
//   - metrics, jobs, webhooks and approvals: maps by the gates' names; each has
//     outcome ("pass", "fail", "inconclusive") and why; a metric also value,
//     canary and baseline (bad, total, value) of its newest sample, and samples;
//     a webhook facts, an approval by;
//   - health and stable: ready, desired and restarts of the pods of the canary
//     and of the stable workloads;
//   - step, weight, and serving: for how long the step's pods have served.
type Facts map[string]any

// expressionEnvironment declares Facts; made when first needed.
var expressionEnvironment = sync.OnceValues(func() (*cel.Env, error) {
	group := cel.MapType(cel.StringType, cel.DynType)
	return cel.NewEnv(
		cel.Variable("metrics", group), cel.Variable("jobs", group), cel.Variable("webhooks", group), cel.Variable("approvals", group),
		cel.Variable("health", group), cel.Variable("stable", group),
		cel.Variable("step", cel.IntType), cel.Variable("weight", cel.IntType), cel.Variable("serving", cel.DurationType))
})

// compileExpression makes a program that gives a truth value.
func compileExpression(text string) (cel.Program, error) {
	environment, err := expressionEnvironment()
	if err != nil {
		return nil, fmt.Errorf("prepare CEL: %w", err)
	}
	return compileTruth(environment, text)
}

// compileTruth makes a program that gives a truth value within a bounded cost.
func compileTruth(environment *cel.Env, text string) (cel.Program, error) {
	if len(text) > MaxQuery {
		return nil, fmt.Errorf("longer than %d bytes", MaxQuery)
	}
	ast, issues := environment.Compile(text)
	if issues.Err() != nil {
		return nil, fmt.Errorf("expression %q: %w", text, issues.Err())
	}
	if kind := ast.OutputType(); !kind.IsEquivalentType(cel.BoolType) && !kind.IsEquivalentType(cel.DynType) {
		return nil, fmt.Errorf("expression %q gives a %s; it must give true or false", text, kind)
	}
	return environment.Program(ast, cel.CostLimit(expressionCost))
}

// CheckExpression tells what is wrong with an expression of a CELGate.
func CheckExpression(text string) error {
	_, err := compileExpression(text)
	return err
}

func (g *CELGate) check() error {
	if g.Pass == "" {
		return errors.New("pass is missing: nothing could ever pass")
	}
	if err := CheckExpression(g.Pass); err != nil {
		return err
	}
	if g.Fail == "" {
		return nil
	}
	return CheckExpression(g.Fail)
}

// judge evaluates the gate. A fact that is not there is no answer, never a pass.
func (g *CELGate) judge(facts Facts) analysis.Verdict {
	if g.Fail != "" {
		if yes, err := truth(g.Fail, facts); err == nil && yes {
			return analysis.Verdict{Outcome: analysis.Fail, Why: g.Fail + " is true"}
		}
	}
	yes, err := truth(g.Pass, facts)
	switch {
	case err != nil:
		return analysis.Verdict{Outcome: analysis.Inconclusive, Why: err.Error()}
	case yes:
		return analysis.Verdict{Outcome: analysis.Pass, Why: g.Pass + " is true"}
	}
	return analysis.Verdict{Outcome: analysis.Inconclusive, Why: g.Pass + " is false"}
}

func truth(text string, facts Facts) (bool, error) {
	program, err := compileExpression(text)
	if err != nil {
		return false, err
	}
	value, _, err := program.Eval(map[string]any(facts))
	if err != nil {
		return false, fmt.Errorf("%s: %w", text, err)
	}
	yes, ok := value.(types.Bool)
	if !ok {
		return false, fmt.Errorf("%s gives a %s; it must give true or false", text, value.Type())
	}
	return bool(yes), nil
}

// facts collects what expressions see of the present step.
func (r *Rollout) facts(obs Observation, now time.Time) Facts {
	groups := map[string]map[string]any{"metric": {}, "job": {}, "webhook": {}, "approval": {}}
	for _, m := range r.Strategy.Metrics {
		if a := r.analysisOf(m.Name); a != nil {
			groups["metric"][m.Name] = metricFacts(a)
		}
	}
	for _, g := range r.present() {
		c := r.checkOf(g.Name)
		if c == nil || g.CEL != nil {
			continue
		}
		fact := map[string]any{"outcome": string(c.Outcome), "why": c.Why}
		switch {
		case g.Approval != nil:
			fact["by"] = c.By
		case g.Webhook != nil:
			var said map[string]any
			if json.Unmarshal(c.Facts, &said) != nil || said == nil {
				said = map[string]any{}
			}
			fact["facts"] = said
		}
		groups[g.Kind()][g.Name] = fact
	}
	facts := Facts{
		"metrics": groups["metric"], "jobs": groups["job"], "webhooks": groups["webhook"], "approvals": groups["approval"],
		"step": r.Step, "weight": 100, "serving": max(now.Sub(r.StepReadyAt), 0), "health": podFacts{}.facts(), "stable": podFacts{}.facts(),
	}
	if r.Step > 0 && r.Step <= len(r.Strategy.Steps) {
		facts["weight"] = r.Strategy.Steps[r.Step-1].Weight
	}
	var fresh, stable podFacts
	for _, c := range obs.Canaries {
		if c.Track != BaselineTrack {
			fresh.add(c.Health.Ready, c.Health.Desired, c.Health.Restarts)
		}
	}
	for _, w := range obs.Workloads {
		if !manifest.IsWorkload(w.Ref) {
			continue
		}
		stable.add(w.Health.Ready, w.Health.Desired, w.Health.Restarts)
	}
	facts["health"], facts["stable"] = fresh.facts(), stable.facts()
	return facts
}

type podFacts struct{ ready, desired, restarts int64 }

func (p *podFacts) add(ready, desired, restarts int32) {
	p.ready, p.desired, p.restarts = p.ready+int64(ready), p.desired+int64(desired), p.restarts+int64(restarts)
}

func (p podFacts) facts() map[string]any {
	return map[string]any{"ready": p.ready, "desired": p.desired, "restarts": p.restarts}
}

func metricFacts(a *Analysis) map[string]any {
	fact := map[string]any{"outcome": string(a.Verdict.Outcome), "why": a.Verdict.Why, "samples": len(a.Samples)}
	if len(a.Samples) == 0 {
		return fact
	}
	last := a.Samples[len(a.Samples)-1]
	if last.Value != nil {
		fact["value"] = *last.Value
	}
	for name, reading := range map[string]*analysis.Reading{"canary": last.Canary, "baseline": last.Baseline} {
		if reading != nil {
			fact[name] = map[string]any{"bad": reading.Bad, "total": reading.Total, "value": reading.Value}
		}
	}
	return fact
}

// evaluate judges the expressions of the present step and tells whether the
// record has become different.
func (r *Rollout) evaluate(obs Observation, now time.Time) bool {
	if !r.asking() {
		return false
	}
	changed := false
	var facts Facts
	for _, g := range r.present() {
		if g.CEL == nil {
			continue
		}
		if facts == nil {
			facts = r.facts(obs, now)
		}
		verdict := g.CEL.judge(facts)
		changed = r.put(Check{Step: r.Step, Gate: g.Name, Kind: "cel", Outcome: verdict.Outcome, Why: verdict.Why, At: now}) || changed
	}
	return changed
}
