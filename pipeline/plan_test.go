package pipeline

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// randomPipeline writes a valid file: stages need only stages that an order
// hidden from the file puts before them.
func randomPipeline(t *rapid.T) string {
	var out strings.Builder
	out.WriteString("version: 1\nname: p\non: push\nstages:\n")
	n := rapid.IntRange(1, 12).Draw(t, "stages")
	order := rapid.Permutation(slices.Collect(func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	})).Draw(t, "order")
	rank := make([]int, n)
	for position, stage := range order {
		rank[stage] = position
	}
	for i := range n {
		fmt.Fprintf(&out, "  s%d:\n    run: x\n", i)
		var needs []string
		for j := range n {
			if rank[j] < rank[i] && rapid.IntRange(0, 3).Draw(t, "need") == 0 {
				needs = append(needs, fmt.Sprintf("s%d", j))
			}
		}
		if len(needs) > 0 {
			fmt.Fprintf(&out, "    needs: [%s]\n", strings.Join(needs, ", "))
		}
		if rapid.IntRange(0, 3).Draw(t, "matrix") == 0 {
			fmt.Fprintf(&out, "    matrix: {a: [1, 2, 3], b: [\"x, b=1\", x]}\n")
		}
		if rapid.IntRange(0, 3).Draw(t, "approve") == 0 {
			out.WriteString("    approve: ops\n")
		}
		if when := rapid.SampledFrom([]string{"", "", "event.branch == 'main'", "event.branch == 'dev'", "always()", "failure() && ref != ''"}).Draw(t, "when"); when != "" {
			fmt.Fprintf(&out, "    when: %s\n", when)
		}
	}
	if rapid.Bool().Draw(t, "finally") {
		out.WriteString("finally:\n  f1: {run: x, needs: f2}\n  f2: {run: x}\n")
	}
	return out.String()
}

func TestPlansAreOrderedUniqueAndDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source := randomPipeline(t)
		p, err := Parse("ci.yaml", []byte(source))
		require.NoError(t, err, source)
		plan, err := PlanFor(p, push("main"))
		require.NoError(t, err)

		seen := map[string]bool{}
		ordinaryEnded := false
		for _, s := range plan.Stages {
			require.False(t, seen[s.ID], "the ID %q stands twice", s.ID)
			for _, need := range s.Needs {
				require.True(t, seen[need], "%q comes before %q, which it needs", s.ID, need)
			}
			seen[s.ID] = true
			ordinaryEnded = ordinaryEnded || s.Finally
			require.Equal(t, ordinaryEnded, s.Finally, "finally stages come last")
			require.Positive(t, s.Timeout)
		}
		// Every need of the file is met: by an approval in front, or by every node.
		for _, s := range p.Stages {
			for _, node := range plan.Stages {
				if node.Name != s.Name {
					continue
				}
				if s.Approve != nil && node.Kind != KindApprove {
					require.Equal(t, []string{s.Name + "/approval"}, node.Needs)
					continue
				}
				for _, need := range s.Needs {
					for _, other := range plan.Stages {
						if other.Name == need && other.Kind != KindApprove {
							require.Contains(t, node.Needs, other.ID)
						}
					}
				}
			}
		}

		again, err := Parse("ci.yaml", []byte(source))
		require.NoError(t, err)
		replanned, err := PlanFor(again, push("main"))
		require.NoError(t, err)
		first, err := json.Marshal(plan)
		require.NoError(t, err)
		second, err := json.Marshal(replanned)
		require.NoError(t, err)
		require.Equal(t, string(first), string(second))
	})
}

// Running a plan by EvaluateWhen ends: every stage is decided, and none that
// planning decided against runs.
func TestPlansRunToTheirEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := Parse("ci.yaml", []byte(randomPipeline(t)))
		require.NoError(t, err)
		plan, err := PlanFor(p, push("main"))
		require.NoError(t, err)
		states := map[string]StageResult{}
		for _, s := range plan.Stages {
			run, err := EvaluateWhen(s, plan, states)
			require.NoError(t, err)
			if !run {
				states[s.ID] = StageResult{Status: statusSkipped}
				continue
			}
			require.NotEqual(t, decidedAgainst, s.When)
			_, err = Resolve(s, plan, states)
			require.NoError(t, err)
			states[s.ID] = StageResult{Status: rapid.SampledFrom([]string{statusSucceeded, statusSucceeded, statusFailed, statusCancelled, statusRefused}).Draw(t, "status")}
		}
	})
}

func TestPlanForDoesNotChangeThePipeline(t *testing.T) {
	p, err := Parse("ci.yaml", []byte(shop))
	require.NoError(t, err)
	before, err := json.Marshal(p)
	require.NoError(t, err)
	plan, err := PlanFor(p, push("main"))
	require.NoError(t, err)
	for i := range plan.Stages {
		if env := plan.Stages[i].Env; env != nil {
			env["X"] = "y"
		}
		if on := plan.Stages[i].Retry.On; len(on) > 0 {
			on[0] = CauseTimeout
		}
	}
	after, err := json.Marshal(p)
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
}

// What an event says is text, wherever it stands: no expression, no path out of
// the checkout, no other environment.
func TestEventValuesAreOnlyText(t *testing.T) {
	source := `version: 1
name: p
on: push
stages:
  a: {run: x}
  b:
    needs: a
    run: x
    env:
      PLAIN: ${{ event.message }}
      MIXED: $${{ ${{ event.branch }}${{ event.message }} ${{ stages.a.outputs.secret }}
`
	p, err := Parse("ci.yaml", []byte(source))
	require.NoError(t, err)
	states := map[string]StageResult{"a": {Status: "succeeded", Outputs: Outputs{"secret": "${{ stages.a.outputs.secret }}$"}}}
	for _, message := range []string{"${{ stages.a.outputs.secret }}", "$${{ x }}", "{{ stages.a.outputs.secret }}", "$", "$$", "}}", "`rm -rf /`"} {
		e := push("evil$")
		e.Message = message
		plan, err := PlanFor(p, e)
		require.NoError(t, err)
		resolved, err := Resolve(plan.Stages[1], plan, states)
		require.NoError(t, err)
		require.Equal(t, message, resolved.Env["PLAIN"])
		require.Equal(t, "${{ evil$"+message+" ${{ stages.a.outputs.secret }}$", resolved.Env["MIXED"])
	}
}

func TestInterpolatedValuesAreCheckedOnceTheyAreKnown(t *testing.T) {
	for _, test := range []struct{ stage, branch, want string }{
		{`deploy: {environment: x, manifests: "k8s/${{ event.branch }}"}`, "../../etc", "leaves the repository"},
		{`deploy: {environment: "${{ event.branch }}", manifests: k8s}`, "Prod X", "not a name that Kubernetes accepts"},
		{`build: {push: "shop:${{ event.branch }}"}`, "a b", "not an image repository"},
		{`build: {push: shop, target: "${{ event.branch }}"}`, "", "the value is empty"},
		{`{run: x, image: "golang:${{ event.branch }}"}`, "--x y", "not an image reference"},
	} {
		stage := test.stage
		if !strings.HasPrefix(stage, "{") {
			stage = "{" + stage + "}"
		}
		p, err := Parse("ci.yaml", []byte("version: 1\nname: p\non: push\nstages:\n  a: "+stage))
		require.NoError(t, err)
		_, err = PlanFor(p, push(test.branch))
		require.ErrorContains(t, err, test.want)
		require.ErrorContains(t, err, `ci.yaml:5:3: stage "a"`)
		require.Equal(t, CauseInvalid, CauseOf(err))
	}
}

func TestInputs(t *testing.T) {
	p, err := Parse("ci.yaml", []byte(`version: 1
name: p
on:
  push:
  manual:
    inputs:
      version: {required: true}
      target: {type: choice, choices: [a, b], default: b}
      dry: {type: boolean}
stages:
  a: {run: x, env: {V: "${{ inputs.version }}/${{ inputs.target }}"}}
`))
	require.NoError(t, err)
	manual := func(inputs map[string]string) event.Event { return event.Event{Kind: event.Manual, Inputs: inputs} }
	plan, err := PlanFor(p, manual(map[string]string{"version": "1.0"}))
	require.NoError(t, err)
	require.Equal(t, "1.0/b", plan.Stages[0].Env["V"])
	plan, err = PlanFor(p, push("main"))
	require.NoError(t, err)
	require.Equal(t, "/b", plan.Stages[0].Env["V"])
	for _, test := range []struct {
		inputs map[string]string
		want   string
	}{
		{nil, `needs the input "version"`},
		{map[string]string{"version": "1", "target": "c"}, `"c" is none of the choices`},
		{map[string]string{"version": "1", "dry": "maybe"}, `not true or false`},
		{map[string]string{"version": "1", "taget": "a"}, `did you mean "target"?`},
	} {
		_, err := PlanFor(p, manual(test.inputs))
		require.ErrorContains(t, err, test.want)
		require.Equal(t, CauseInvalid, CauseOf(err))
	}
}

func TestExpressionsCannotCostMuch(t *testing.T) {
	for _, expression := range []string{
		`event.changedPaths.filter(a, event.changedPaths.exists(b, event.changedPaths.exists(c, a+b == c))).size() > 0 ? "x" : "y"`,
		`event.message.replace("a", event.message).replace("a", event.message)`,
	} {
		p, err := Parse("ci.yaml", []byte("version: 1\nname: p\non: push\nstages:\n  a: {run: x, env: {A: '${{ "+expression+" }}'}}"))
		require.NoError(t, err)
		e := push("main")
		e.Message = strings.Repeat("a", 10_000)
		for i := range 1000 {
			e.ChangedPaths = append(e.ChangedPaths, fmt.Sprint(i))
		}
		_, err = PlanFor(p, e)
		require.Error(t, err)
		require.Equal(t, CauseInvalid, CauseOf(err))
	}
}
