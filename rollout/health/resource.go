package health

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ResourceFailed says that a custom resource calls itself stalled, or that its
// rule says that it has failed.
const ResourceFailed Reason = "ResourceFailed"

// Rule judges a custom resource: Ready, Progressing or Failed, and why.
type Rule interface {
	Judge(object map[string]any) (Status, string)
}

// Resource judges a custom resource, nil when it does not exist. A controller
// that has not seen the newest generation says nothing about it. For the rest
// the rule decides; without one, what kstatus describes does: Stalled is failed,
// Reconciling is on its way, Ready tells, and an object with none of these
// conditions is ready by being there. See
// https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md.
func Resource(u *unstructured.Unstructured, rule Rule) Verdict {
	v := Verdict{Status: Progressing, Desired: 1}
	switch {
	case u == nil:
		v.Reason, v.Message = WorkloadMissing, "it does not exist yet"
		return v
	case u.GetDeletionTimestamp() != nil:
		v.Reason, v.Message = NotReady, "it is being deleted"
		return v
	}
	seen, found, err := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
	if err == nil && found && seen != u.GetGeneration() {
		v.Reason, v.Message = StatusStale, "waiting for its controller to see the new specification"
		return v
	}
	var why string
	if rule != nil {
		v.Status, why = rule.Judge(u.Object)
	} else {
		v.Status, why = byConditions(u)
	}
	v.Message = clip(why)
	switch v.Status {
	case Ready:
		v.Ready, v.Available, v.Updated = 1, 1, 1
	case Failed:
		v.Reason = ResourceFailed
	default:
		v.Status, v.Reason = Progressing, NotReady
	}
	return v
}

// condition is what the conventions of the API say one looks like.
type condition struct {
	kind, status, reason, message string
}

func (c *condition) String() string {
	text := c.kind + " is " + c.status
	for _, more := range []string{c.reason, c.message} {
		if more != "" {
			text += ": " + more
		}
	}
	return text
}

func byConditions(u *unstructured.Unstructured) (Status, string) {
	found := map[string]*condition{}
	list, _, err := unstructured.NestedSlice(u.Object, "status", "conditions")
	if err != nil {
		return Ready, "it is there; its status has no conditions that can be read"
	}
	for _, item := range list {
		entry, ok := item.(map[string]any)
		if !ok {
			continue
		}
		c := &condition{}
		for key, into := range map[string]*string{"type": &c.kind, "status": &c.status, "reason": &c.reason, "message": &c.message} {
			*into, _ = entry[key].(string)
		}
		if seen, ok := entry["observedGeneration"].(int64); ok && seen < u.GetGeneration() {
			c.status, c.reason, c.message = "Unknown", "", fmt.Sprintf("it is of generation %d, and the object of %d", seen, u.GetGeneration())
		}
		if found[c.kind] == nil {
			found[c.kind] = c
		}
	}
	switch reconciling, stalled, ready := found["Reconciling"], found["Stalled"], found["Ready"]; {
	case stalled != nil && stalled.status == "True":
		return Failed, stalled.String()
	case reconciling != nil && reconciling.status == "True":
		return Progressing, reconciling.String()
	case ready != nil && ready.status == "True":
		return Ready, ready.String()
	case ready != nil:
		return Progressing, ready.String()
	}
	return Ready, "it is there; it has no condition Ready"
}
