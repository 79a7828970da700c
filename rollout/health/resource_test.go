package health

import (
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

type ruleFunc func(map[string]any) (Status, string)

func (f ruleFunc) Judge(object map[string]any) (Status, string) { return f(object) }

func resourceOf(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	encoded, err := yaml.YAMLToJSON([]byte("apiVersion: example.com/v1\nkind: Database\n" + text))
	require.NoError(t, err)
	require.NoError(t, u.UnmarshalJSON(encoded))
	return u
}

func TestResource(t *testing.T) {
	for name, c := range map[string]struct {
		text   string
		rule   Rule
		status Status
		reason Reason
		says   string
	}{
		"no status":                     {"metadata: {name: a, generation: 1}", nil, Ready, NoReason, "no condition Ready"},
		"ready":                         {"metadata: {name: a, generation: 2}\nstatus: {observedGeneration: 2, conditions: [{type: Ready, status: 'True', reason: Up}]}", nil, Ready, NoReason, "Ready is True: Up"},
		"not ready":                     {"metadata: {name: a}\nstatus: {conditions: [{type: Ready, status: 'False', reason: Creating, message: 'disk 1 of 2'}]}", nil, Progressing, NotReady, "Ready is False: Creating: disk 1 of 2"},
		"unknown":                       {"metadata: {name: a}\nstatus: {conditions: [{type: Ready, status: Unknown}]}", nil, Progressing, NotReady, "Ready is Unknown"},
		"reconciling":                   {"metadata: {name: a}\nstatus: {conditions: [{type: Ready, status: 'True'}, {type: Reconciling, status: 'True', message: again}]}", nil, Progressing, NotReady, "again"},
		"stalled":                       {"metadata: {name: a}\nstatus: {conditions: [{type: Reconciling, status: 'True'}, {type: Stalled, status: 'True', reason: NoQuota}]}", nil, Failed, ResourceFailed, "NoQuota"},
		"was stalled":                   {"metadata: {name: a}\nstatus: {conditions: [{type: Stalled, status: 'False'}, {type: Ready, status: 'True'}]}", nil, Ready, NoReason, ""},
		"stale":                         {"metadata: {name: a, generation: 3}\nstatus: {observedGeneration: 2, conditions: [{type: Ready, status: 'True'}]}", nil, Progressing, StatusStale, "new specification"},
		"stale condition":               {"metadata: {name: a, generation: 3}\nstatus: {conditions: [{type: Ready, status: 'True', observedGeneration: 2}]}", nil, Progressing, NotReady, "generation 2"},
		"ends":                          {"metadata: {name: a, deletionTimestamp: '2026-01-01T00:00:00Z'}\nstatus: {conditions: [{type: Ready, status: 'True'}]}", nil, Progressing, NotReady, "deleted"},
		"odd conditions":                {"metadata: {name: a}\nstatus: {conditions: [1, {type: 2}, {type: Ready, status: 'True'}]}", nil, Ready, NoReason, ""},
		"conditions that are none":      {"metadata: {name: a}\nstatus: {conditions: yes}", nil, Ready, NoReason, "that can be read"},
		"by a rule":                     {"metadata: {name: a}\nstatus: {conditions: [{type: Ready, status: 'True'}]}", ruleFunc(func(map[string]any) (Status, string) { return Failed, "as the rule says" }), Failed, ResourceFailed, "as the rule says"},
		"stale, whatever the rule says": {"metadata: {name: a, generation: 3}\nstatus: {observedGeneration: 2}", ruleFunc(func(map[string]any) (Status, string) { return Ready, "" }), Progressing, StatusStale, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := Resource(resourceOf(t, c.text), c.rule)
			require.Equal(t, c.status, v.Status, v.Message)
			require.Equal(t, c.reason, v.Reason)
			require.Contains(t, v.Message, c.says)
			require.EqualValues(t, 1, v.Desired)
			require.Equal(t, v.Status == Ready, v.Ready == 1)
		})
	}
	require.Equal(t, WorkloadMissing, Resource(nil, nil).Reason)
}

// Whatever a controller writes into a status, judging it gives a verdict.
func FuzzResource(f *testing.F) {
	f.Add(`{"metadata":{"generation":1},"status":{"observedGeneration":"x","conditions":[{"type":"Ready","status":"True"}]}}`)
	f.Add(`{"status":[],"metadata":3}`)
	f.Fuzz(func(t *testing.T, text string) {
		var object map[string]any
		if yaml.Unmarshal([]byte(text), &object) != nil || object == nil {
			return
		}
		if v := Resource(&unstructured.Unstructured{Object: object}, nil); v.Status != Ready && v.Reason == NoReason {
			t.Fatalf("%+v has no reason", v)
		}
	})
}
