package pipeline

import (
	"slices"
	"strings"
	"testing"
)

func TestSelect(t *testing.T) {
	plan := &Plan{Stages: []PlannedStage{
		{ID: "unit (race=false)", Name: "unit"},
		{ID: "unit (race=true)", Name: "unit"},
		{ID: "image", Name: "image", Needs: []string{"unit (race=false)", "unit (race=true)"}},
		{ID: "docs", Name: "docs"},
		{ID: "production/approval", Name: "production", Needs: []string{"image"}},
		{ID: "production", Name: "production", Needs: []string{"production/approval"}},
		{ID: "tell", Name: "tell", Finally: true},
	}}
	for _, test := range []struct{ names, want []string }{
		{[]string{"docs"}, []string{"docs", "tell"}},
		{[]string{"unit (race=true)"}, []string{"unit (race=true)", "tell"}},
		{[]string{"unit"}, []string{"unit (race=false)", "unit (race=true)", "tell"}},
		{[]string{"production", "docs"}, plan.stageIDs()},
	} {
		selected, err := plan.Select(test.names)
		if err != nil {
			t.Fatal(err)
		}
		if got := selected.stageIDs(); !slices.Equal(got, test.want) {
			t.Errorf("Select(%q) = %q, want %q", test.names, got, test.want)
		}
	}
	_, err := plan.Select([]string{"imgae"})
	if CauseOf(err) != CauseInvalid || !strings.Contains(err.Error(), `"image"`) {
		t.Errorf("an unknown stage: %v", err)
	}
	if len(plan.Stages) != 7 {
		t.Error("the plan itself was changed")
	}
}
