package main

import (
	"fmt"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/tidegate-ci/tidegate/internal/kwok"
)

// Names in every world.
const (
	shop      = "shop"
	benchNode = "bench" // whose the nodes are that KWOK plays
)

// app is what a subject installs and then updates.
type app struct {
	name  string
	pods  int
	image string
	// deadline bounds the time without progress; 0 is the subject's own default.
	deadline time.Duration
	// canary is its steps, without holds, in percent of the pods; none is a rolling update.
	canary []int
	// bake is how long Tidegate lets pods prove themselves; nil is its default.
	bake *time.Duration
	// graceful keeps a pod serving while it is taken out of its Service, as one
	// does where no request may fail.
	graceful bool
	// fake runs it on the nodes that KWOK plays.
	fake bool
}

// steady is a healthy version's canary of the comparison.
var steady = []int{20, 50, 80}

// manifests are a Deployment (or, with kind, something shaped like one) and a
// Service, as YAML. The spec's further fields are extra.
func (a app) manifests(kind, apiVersion string, extra map[string]any) (string, error) {
	labels := map[string]any{"app": a.name}
	container := map[string]any{"name": "main", "image": a.image}
	pod := map[string]any{"terminationGracePeriodSeconds": 1, "containers": []any{container}}
	if a.fake {
		pod["nodeSelector"] = map[string]any{kwok.Played: benchNode}
		pod["tolerations"] = []any{map[string]any{"key": kwok.Played, "operator": "Exists"}}
	} else {
		container["readinessProbe"] = map[string]any{"httpGet": map[string]any{"path": "/ready", "port": 8080}, "periodSeconds": 1}
	}
	if a.graceful {
		container["lifecycle"] = map[string]any{"preStop": map[string]any{"sleep": map[string]any{"seconds": 3}}}
		pod["terminationGracePeriodSeconds"] = 5
	}
	spec := map[string]any{"replicas": a.pods, "selector": map[string]any{"matchLabels": labels},
		"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": pod}}
	for key, value := range extra {
		spec[key] = value
	}
	workload, err := yaml.Marshal(map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": a.name}, "spec": spec})
	if err != nil {
		return "", err
	}
	if a.fake { // nobody asks it anything
		return string(workload), nil
	}
	return fmt.Sprintf("%s---\napiVersion: v1\nkind: Service\nmetadata: {name: %[2]s}\nspec:\n  selector: {app: %[2]s}\n  ports: [{port: 80, targetPort: 8080}]\n",
		workload, a.name), nil
}

// deployment is the app as a plain Deployment that never has fewer pods than it wants.
func (a app) deployment() (string, error) {
	extra := map[string]any{"strategy": map[string]any{"rollingUpdate": map[string]any{"maxSurge": "25%", "maxUnavailable": 0}}}
	if a.deadline > 0 {
		extra["progressDeadlineSeconds"] = int(a.deadline.Seconds())
	}
	return a.manifests("Deployment", "apps/v1", extra)
}

// rollout is the app as Argo Rollouts has it.
func (a app) rollout() (string, error) {
	canary := map[string]any{"maxSurge": "25%", "maxUnavailable": 0}
	var steps []any
	for _, weight := range a.canary {
		steps = append(steps, map[string]any{"setWeight": weight})
	}
	if len(steps) > 0 {
		canary["steps"] = steps
	}
	extra := map[string]any{"strategy": map[string]any{"canary": canary}}
	if a.deadline > 0 {
		extra["progressDeadlineSeconds"], extra["progressDeadlineAbort"] = int(a.deadline.Seconds()), true
	}
	return a.manifests("Rollout", "argoproj.io/v1alpha1", extra)
}
