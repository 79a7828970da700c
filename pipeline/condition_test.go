package pipeline

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// a diamond with a stage behind it, planned for a push of main:
//
//	top → left, right → bottom
func diamond(when string, finally bool) (PlannedStage, *Plan) {
	bottom := PlannedStage{ID: "bottom", Name: "bottom", Kind: KindRun, Needs: []string{"left", "right"}, When: when}
	if finally {
		bottom.Needs, bottom.Finally = nil, true
	}
	return bottom, &Plan{
		Pipeline: "p", Event: push("main"),
		Stages: []PlannedStage{
			{ID: "top", Name: "top", Kind: KindRun},
			{ID: "left", Name: "left", Kind: KindRun, Needs: []string{"top"}},
			{ID: "right", Name: "right", Kind: KindRun, Needs: []string{"top"}},
			bottom,
		},
	}
}

func ended(top, left, right string) map[string]StageResult {
	return map[string]StageResult{
		"top":  {Status: top, Outputs: Outputs{"version": "1.2"}},
		"left": {Status: left}, "right": {Status: right},
	}
}

func TestEvaluateWhen(t *testing.T) {
	good := ended("succeeded", "succeeded", "succeeded")
	oneFailed := ended("succeeded", "failed", "succeeded")
	oneSkipped := ended("succeeded", "succeeded", "skipped")
	topFailed := ended("failed", "skipped", "skipped")
	refused := ended("succeeded", "refused", "succeeded")
	cancelled := ended("succeeded", "cancelled", "succeeded")
	for _, test := range []struct {
		name, when string
		finally    bool
		states     map[string]StageResult
		want       bool
	}{
		{"default runs when every need succeeded", "", false, good, true},
		{"default does not run after a failure", "", false, oneFailed, false},
		{"a skipped need skips its dependants", "", false, oneSkipped, false},
		{"a cancelled need skips its dependants", "", false, cancelled, false},
		{"decided against while planning", "false", false, good, false},

		{"a condition that holds", `event.branch == "main"`, false, good, true},
		{"a condition that does not hold", `event.branch == "dev"`, false, good, false},
		{"a condition alone keeps the default", `event.branch == "main"`, false, oneFailed, false},
		{"a condition alone keeps the default for skips", `event.branch == "main"`, false, oneSkipped, false},

		{"always after success", `always()`, false, good, true},
		{"always after failure", `always()`, false, oneFailed, true},
		{"always after skip", `always()`, false, topFailed, true},
		{"always with a condition", `always() && event.branch == "dev"`, false, oneFailed, false},

		{"success after success", `success()`, false, good, true},
		{"success after failure", `success()`, false, oneFailed, false},
		{"success after skip", `success()`, false, oneSkipped, false},
		{"not success after skip", `!success()`, false, oneSkipped, true},

		{"failure after success", `failure()`, false, good, false},
		{"failure after failure", `failure()`, false, oneFailed, true},
		{"failure of a stage further up", `failure()`, false, topFailed, true},
		{"failure after refusal", `failure()`, false, refused, true},
		{"failure after cancellation", `failure()`, false, cancelled, false},
		{"failure after skip", `failure()`, false, oneSkipped, false},

		{"status of a need", `always() && stages.left.status == "failed"`, false, oneFailed, true},
		{"output of a stage further up", `stages.top.outputs.version == "1.2"`, false, good, true},
		{"an output that may be missing", `has(stages.top.outputs.other) && stages.top.outputs.other == "x"`, false, good, false},
		{"failing need, missing output not looked at", `stages.left.outputs.x == "1"`, false, oneFailed, false},

		{"finally always runs", "", true, topFailed, true},
		{"finally with success after success", "success()", true, good, true},
		{"finally with success after a skip", "success()", true, oneSkipped, true},
		{"finally with success after failure", "success()", true, oneFailed, false},
		{"finally with failure after failure", "failure()", true, oneFailed, true},
		{"finally with failure after success", "failure()", true, good, false},
		{"finally decides by its condition alone", `event.branch == "main"`, true, topFailed, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			stage, plan := diamond(test.when, test.finally)
			run, err := EvaluateWhen(stage, plan, test.states)
			require.NoError(t, err)
			require.Equal(t, test.want, run)
		})
	}
}

func TestEvaluateWhenWaitsForEveryNeed(t *testing.T) {
	stage, plan := diamond("", false)
	_, err := EvaluateWhen(stage, plan, ended("succeeded", "running", "succeeded"))
	require.ErrorContains(t, err, `"left", which has not ended`)
}

func TestEvaluateWhenNamesWhatIsMissing(t *testing.T) {
	stage, plan := diamond(`stages.top.outputs.tag == "x"`, false)
	_, err := EvaluateWhen(stage, plan, ended("succeeded", "succeeded", "succeeded"))
	require.ErrorContains(t, err, `stage "bottom": when: there is no tag; test for it with has()`)
	require.Equal(t, CauseInvalid, CauseOf(err))
}

func TestStagesSeeOnlyWhatTheyNeed(t *testing.T) {
	stage, plan := diamond(`!("right" in stages) && "top" in stages`, false)
	stage.Needs = []string{"left"}
	run, err := EvaluateWhen(stage, plan, ended("succeeded", "succeeded", "succeeded"))
	require.NoError(t, err)
	require.True(t, run)
}

func TestAMatrixIsSeenAsOneStage(t *testing.T) {
	plan := &Plan{Event: push("main"), Stages: []PlannedStage{
		{ID: "unit (os=a)", Name: "unit", Kind: KindRun},
		{ID: "unit (os=b)", Name: "unit", Kind: KindRun},
		{ID: "after", Name: "after", Kind: KindRun, Needs: []string{"unit (os=a)", "unit (os=b)"},
			When: `always() && stages.unit.status == "failed" && stages["unit (os=a)"].status == "succeeded" && stages.unit.outputs.x == "2"`},
	}}
	run, err := EvaluateWhen(plan.Stages[2], plan, map[string]StageResult{
		"unit (os=a)": {Status: "succeeded", Outputs: Outputs{"x": "1"}},
		"unit (os=b)": {Status: "failed", Outputs: Outputs{"x": "2"}},
	})
	require.NoError(t, err)
	require.True(t, run)
}

func TestAnApprovalIsNotPartOfTheStageBehindIt(t *testing.T) {
	plan := &Plan{Event: push("main"), Stages: []PlannedStage{
		{ID: "ship/approval", Name: "ship", Kind: KindApprove},
		{ID: "ship", Name: "ship", Kind: KindDeploy, Needs: []string{"ship/approval"}},
		{ID: "after", Name: "after", Kind: KindRun, Needs: []string{"ship"}, When: `always() && stages.ship.status == "failed"`},
	}}
	run, err := EvaluateWhen(plan.Stages[2], plan, map[string]StageResult{"ship/approval": {Status: "succeeded"}, "ship": {Status: "failed"}})
	require.NoError(t, err)
	require.True(t, run)
}
