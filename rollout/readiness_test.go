package rollout

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

func TestReadinessRules(t *testing.T) {
	for name, c := range map[string]struct {
		rule   Readiness
		object map[string]any
		status health.Status
		says   string
	}{
		"ready":             {Readiness{Ready: `object.status.phase == "Up"`}, map[string]any{"status": map[string]any{"phase": "Up"}}, health.Ready, "is true"},
		"not ready":         {Readiness{Ready: `object.status.phase == "Up"`}, map[string]any{"status": map[string]any{"phase": "Starting"}}, health.Progressing, "is false"},
		"cannot be told":    {Readiness{Ready: `object.status.phase == "Up"`}, map[string]any{}, health.Progressing, "no such key"},
		"failed":            {Readiness{Ready: "true", Failed: `object.status.phase == "Broken"`}, map[string]any{"status": map[string]any{"phase": "Broken"}}, health.Failed, "is true"},
		"no word of failed": {Readiness{Ready: "true", Failed: `object.status.phase == "Broken"`}, map[string]any{}, health.Ready, ""},
		"numbers":           {Readiness{Ready: "object.status.ready >= object.spec.size"}, map[string]any{"spec": map[string]any{"size": int64(3)}, "status": map[string]any{"ready": int64(3)}}, health.Ready, ""},
		"no truth value":    {Readiness{Ready: "object.status"}, map[string]any{"status": "x"}, health.Progressing, "true or false"},
	} {
		t.Run(name, func(t *testing.T) {
			c.rule.Kind = "Database"
			require.NoError(t, c.rule.Check())
			compiled, err := c.rule.compile()
			require.NoError(t, err)
			status, why := compiled.Judge(c.object)
			require.Equal(t, c.status, status, why)
			require.Contains(t, why, c.says)
		})
	}
}

func TestWrongRulesAreRefused(t *testing.T) {
	for name, rules := range map[string][]Readiness{
		"no kind":        {{Ready: "true"}},
		"never ready":    {{Kind: "A"}},
		"no expression":  {{Kind: "A", Ready: "object.status ="}},
		"another name":   {{Kind: "A", Ready: "self.ready"}},
		"no truth value": {{Kind: "A", Ready: `"yes"`}},
		"wrong failed":   {{Kind: "A", Ready: "true", Failed: "1"}},
		"too long":       {{Kind: "A", Ready: "true" + strings.Repeat(" ", MaxQuery)}},
		"twice":          {{Kind: "A", Ready: "true"}, {Kind: "A", Ready: "false"}},
		"too many":       make([]Readiness, MaxReadiness+1),
	} {
		require.ErrorIs(t, checkReadiness(rules), ErrInvalid, name)
	}
}

func TestRuleOfAKind(t *testing.T) {
	r := &Rollout{Readiness: []Readiness{{Kind: "Database.other.com", Ready: "false"}, {Kind: "Database", Ready: "true"}}}
	cache := ruleCache{}
	rule := cache.of(r, manifest.Ref{APIVersion: "example.com/v1", Kind: "Database"})
	require.NotNil(t, rule)
	status, _ := rule.Judge(nil)
	require.Equal(t, health.Ready, status)
	require.Nil(t, cache.of(r, manifest.Ref{APIVersion: "example.com/v1", Kind: "Cache"}))
	require.Len(t, cache, 1)
}
