//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/tidegate-ci/tidegate/rollout"
)

// cellarPipeline and cellarRelease are a release in three waves: a custom
// resource that says itself how it does, one that a rule judges, and a
// Deployment. It brings their definitions.
const (
	cellarPipeline = `version: 1
name: shop
on: {push: {branches: [main]}, manual: {}}
stages:
  production:
    deploy:
      environment: production
      manifests: k8s/
      bake: 1s
      deadline: 2m
      images: [{kind: Cellar.GROUP, path: "spec.keepers[*].image"}]
      readiness: [{kind: Barrel, ready: 'object.status.phase == "full"', failed: 'object.status.phase == "leaking"'}]
`
	cellarRelease = `
apiVersion: GROUP/v1
kind: Cellar
metadata: {name: deep, annotations: {tidegate.dev/wave: "-1"}}
spec: {degrees: DEGREES, keepers: [{image: HOST/shop:keeper}]}
---
apiVersion: GROUP/v1
kind: Barrel
metadata: {name: oak, annotations: {tidegate.dev/after: Cellar/deep}}
spec: {litres: LITRES}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, annotations: {tidegate.dev/after: barrel/oak}}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: shop, image: IMAGE, readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}}]}
`
	cellarDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: PLURAL.GROUP}
spec:
  group: GROUP
  names: {kind: KIND, plural: PLURAL}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {degrees: {type: integer}, litres: {type: integer}, keepers: {type: array, items: {type: object, properties: {image: {type: string}}}}}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
---
`
)

// cellar plays the controllers of the custom resources of a test.
type cellar struct {
	*world
	client dynamic.Interface
	group  string
}

func newCellar(t *testing.T) *cellar {
	w := newWorld(t)
	client, err := dynamic.NewForConfig(config)
	require.NoError(t, err)
	c := &cellar{world: w, client: client, group: w.namespace + ".tidegate.test"}
	t.Cleanup(func() {
		definitions := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
		for _, plural := range []string{"cellars", "barrels"} {
			err := definitions.Delete(context.Background(), plural+"."+c.group, metav1.DeleteOptions{})
			require.True(t, err == nil || apierrors.IsNotFound(err), "%v", err)
		}
	})
	return c
}

func (c *cellar) objects(plural string) dynamic.ResourceInterface {
	group := c.group
	if plural == "deployments" {
		group = "apps"
	}
	return c.client.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: plural}).Namespace(c.namespace)
}

// awaits blocks until an object is as seen says.
func (c *cellar) awaits(plural, name string, seen func(*unstructured.Unstructured) bool) *unstructured.Unstructured {
	c.Helper()
	for {
		// The kind itself may not be there yet: then a watch is refused.
		watch, err := c.objects(plural).Watch(c.ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err != nil {
			require.True(c, apierrors.IsNotFound(err), "%v", err)
			timer := time.NewTimer(50 * time.Millisecond)
			select {
			case <-timer.C:
			case <-c.ctx.Done():
				require.FailNow(c, "never came", "%s/%s", plural, name)
			}
			continue
		}
		for event := range watch.ResultChan() {
			if u, ok := event.Object.(*unstructured.Unstructured); ok && event.Type != "DELETED" && seen(u) {
				watch.Stop()
				return u
			}
		}
		require.NoError(c, c.ctx.Err(), "%s/%s never got there", plural, name)
	}
}

// says writes a status, as a controller that has seen the object's generation does.
func (c *cellar) says(plural, name string, status map[string]any) {
	c.Helper()
	live, err := c.objects(plural).Get(c.ctx, name, metav1.GetOptions{})
	require.NoError(c, err)
	status["observedGeneration"] = live.GetGeneration()
	patch, err := json.Marshal(map[string]any{"status": status})
	require.NoError(c, err)
	_, err = c.objects(plural).Patch(c.ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	require.NoError(c, err)
}

func saying(kind, status, message string) map[string]any {
	return map[string]any{"conditions": []any{map[string]any{"type": kind, "status": status, "reason": "AsTheTestSays", "message": message}}}
}

func (c *cellar) absent(plural, name string) {
	c.Helper()
	_, err := c.objects(plural).Get(c.ctx, name, metav1.GetOptions{})
	require.True(c, apierrors.IsNotFound(err), "%s/%s is there: %v", plural, name, err)
}

// field tells whether a number of the specification is n.
func field(name string, n int64) func(*unstructured.Unstructured) bool {
	return func(u *unstructured.Unstructured) bool {
		value, _, err := unstructured.NestedInt64(u.Object, "spec", name)
		return err == nil && value == n
	}
}

// A release with its own kinds goes wave by wave through the pipeline file, and
// goes back in the opposite order.
func TestWavesOfCustomResources(t *testing.T) {
	c := newCellar(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	digest, err := name.NewDigest(v1)
	require.NoError(t, err)
	described, err := remote.Get(digest)
	require.NoError(t, err)
	require.NoError(t, remote.Tag(digest.Context().Tag("keeper"), described))

	dir := t.TempDir()
	put := func(name, text string, with ...string) {
		text = strings.NewReplacer(append(with, "GROUP", c.group, "HOST", digest.RegistryStr())...).Replace(text)
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	put(".tidegate.yaml", cellarPipeline)
	put("k8s/crd.yaml", strings.NewReplacer("KIND", "Cellar", "PLURAL", "cellars").Replace(cellarDefinition)+strings.NewReplacer("KIND", "Barrel", "PLURAL", "barrels").Replace(cellarDefinition))
	put("k8s/shop.yaml", cellarRelease, "DEGREES", "12", "LITRES", "100", "IMAGE", v1)
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "."}, {"-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "shop"}} {
		git := exec.CommandContext(c.ctx, "git", args...)
		git.Dir = dir
		out, err := git.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	type ended struct {
		out string
		err error
	}
	state := t.TempDir()
	release := func() <-chan ended {
		done := make(chan ended, 1)
		command := exec.CommandContext(c.ctx, tidegate, "run", "--namespace", c.namespace)
		command.Dir = dir
		command.Env = append(os.Environ(), "XDG_STATE_HOME="+state)
		go func() {
			out, err := command.CombinedOutput()
			done <- ended{string(out), err}
		}()
		return done
	}

	// The first release: each wave comes when the one before is ready.
	first := release()
	deep := c.awaits("cellars", "deep", field("degrees", 12))
	keepers, _, err := unstructured.NestedSlice(deep.Object, "spec", "keepers")
	require.NoError(t, err)
	require.Equal(t, []any{map[string]any{"image": v1}}, keepers, "pinned, though it is in no pod")
	c.says("cellars", "deep", saying("Ready", "False", "digging"))
	c.absent("barrels", "oak")
	c.says("cellars", "deep", saying("Ready", "True", "dug"))
	c.awaits("barrels", "oak", field("litres", 100))
	c.absent("deployments", "shop")
	c.says("barrels", "oak", map[string]any{"phase": "filling"})
	c.absent("deployments", "shop")
	c.says("barrels", "oak", map[string]any{"phase": "full"})
	result := <-first
	require.NoError(t, result.err, result.out)
	record, _, err := c.controller().Status(c.ctx, c.target())
	require.NoError(t, err)
	require.Equal(t, rollout.Verified, record.Current.State, result.out)
	var waves []int
	for _, gate := range record.Current.Gates {
		waves = append(waves, gate.Wave)
	}
	require.Equal(t, []int{1, 2, 3}, waves)
	require.Contains(t, record.Current.Gates[0].Evidence, "Cellar deep: Ready is True: AsTheTestSays: dug")
	require.Contains(t, record.Current.Gates[1].Evidence, `Barrel oak: object.status.phase == "full" is true`)

	// The second: its second wave fails. The third never begins, and the second
	// goes back before the first.
	put("k8s/shop.yaml", cellarRelease, "DEGREES", "13", "LITRES", "200", "IMAGE", v2)
	second := release()
	c.awaits("cellars", "deep", field("degrees", 13))
	c.says("cellars", "deep", saying("Ready", "True", "dug deeper"))
	c.awaits("barrels", "oak", field("litres", 200))
	c.says("barrels", "oak", map[string]any{"phase": "leaking"})
	c.awaits("barrels", "oak", field("litres", 100))
	deep, err = c.objects("cellars").Get(c.ctx, "deep", metav1.GetOptions{})
	require.NoError(t, err)
	require.True(t, field("degrees", 13)(deep), "the first wave waits for the second to be well again")
	c.says("barrels", "oak", map[string]any{"phase": "full"})
	c.awaits("cellars", "deep", field("degrees", 12))
	c.says("cellars", "deep", saying("Ready", "True", "filled up again"))
	result = <-second
	require.Error(t, result.err, result.out)
	record, _, err = c.controller().Status(c.ctx, c.target())
	require.NoError(t, err)
	require.Equal(t, rollout.RolledBack, record.Current.State, result.out)
	require.EqualValues(t, "ResourceFailed", record.Current.Failure.Reason)
	require.Contains(t, record.Current.Failure.Message, `oak: object.status.phase == "leaking" is true`)
	c.settles(map[string]int{v1: 1})
	out, code := c.asks("status", "shop")
	require.Zero(t, code)
	require.Contains(t, out, "Cellar/deep; then Barrel/oak; then Deployment/shop")

	// A name that is not there is refused before anything is written, with its place.
	put("k8s/shop.yaml", strings.Replace(cellarRelease, "barrel/oak", "barrel/ash", 1), "DEGREES", "14", "LITRES", "300", "IMAGE", v2)
	result = <-release()
	require.Error(t, result.err)
	require.Contains(t, result.out, `k8s/shop.yaml:14:38: Deployment/shop in namespace `+c.namespace+`: tidegate.dev/after: "barrel/ash" is not there`)
	deep, err = c.objects("cellars").Get(c.ctx, "deep", metav1.GetOptions{})
	require.NoError(t, err)
	require.True(t, field("degrees", 12)(deep))
}

const store = `
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: store, annotations: {tidegate.dev/wave: "-1"}}
spec:
  replicas: 2
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: store, image: STORE, readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}}]}
`

// A canary belongs to the last wave that changes; what is before it is updated
// first, and goes back last.
func TestWavesAroundACanary(t *testing.T) {
	w := newWorld(t)
	v1, v2, bad := image(t, "VERSION=1"), image(t, "VERSION=2"), image(t, "VERSION=3", "CRASH_AFTER=0s")
	request := func(store1, shop1 string, steps ...rollout.Step) rollout.Request {
		r := w.request(shop1, time.Second, steps...)
		r.Release = w.release(shop+strings.Replace(store, "STORE", store1, 1), shop1)
		return r
	}
	_, err := w.controller().Start(w.ctx, request(v1, v1), w.log(nil))
	require.NoError(t, err)
	w.settles(map[string]int{v1: 5})

	tell := w.told()
	step := rollout.Step{Weight: 20}
	result, err := w.controller().Start(w.ctx, request(v2, bad, step), w.log(tell))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, rollout.RolledBack, result.Rollout.State)
	require.Equal(t, 1, result.Rollout.CanaryWave)
	require.Equal(t, "shop-canary", result.Rollout.Failure.Workload)
	require.Contains(t, result.Rollout.Note, "Deployment/store changes in a wave before that of the canary")
	require.Len(t, result.Rollout.Gates, 1)
	require.Equal(t, 1, result.Rollout.Gates[0].Wave)
	w.settles(map[string]int{v1: 5})
	var order []string
	for _, line := range tell.lines {
		switch {
		case strings.Contains(line.Message, "applying the release, wave 1 of 2"), strings.Contains(line.Message, "wave 1 of 2 passed"), strings.Contains(line.Message, "canary step 1: 20 %"),
			strings.Contains(line.Message, "applying revision 1 again, wave 2 of 2"), strings.Contains(line.Message, "wave 2 of 2 is put back"), strings.Contains(line.Message, "applying revision 1 again, wave 1 of 2"):
			order = append(order, line.Message)
		}
	}
	require.Len(t, order, 6, "%v", order)

	result, err = w.controller().Start(w.ctx, request(v2, v2, step), w.log(nil))
	require.NoError(t, err)
	require.Len(t, result.Rollout.Gates, 3, "the first wave, the canary's step, and the second wave")
	w.settles(map[string]int{v2: 5})

	// By hand, what came last goes back first.
	tell = w.told()
	_, err = w.controller().Rollback(w.ctx, w.target(), 0, "tester", w.log(tell))
	require.NoError(t, err)
	w.settles(map[string]int{v1: 5})
	record, _, err := w.controller().Status(w.ctx, w.target())
	require.NoError(t, err)
	require.Equal(t, "shop", record.Current.Waves[0][0].Name)
}

// What others changed is named with who did, and is not overwritten.
func TestConflictNamesTheOtherManager(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.startVerified(v1)
	patch := `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"shop"},"spec":{"replicas":4}}`
	force := true
	_, err := kube.AppsV1().Deployments(w.namespace).Patch(w.ctx, "shop", types.ApplyPatchType, []byte(patch), metav1.PatchOptions{FieldManager: "night-shift", Force: &force})
	require.NoError(t, err)
	_, err = w.controller().Start(w.ctx, w.request(v2, 0), w.log(nil))
	require.ErrorIs(t, err, rollout.ErrRejected)
	require.ErrorContains(t, err, `with "night-shift"`)
	require.ErrorContains(t, err, ".spec.replicas")
	require.ErrorContains(t, err, "--force")
	live, err := kube.AppsV1().Deployments(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 4, *live.Spec.Replicas)
	require.Equal(t, v1, live.Spec.Template.Spec.Containers[0].Image)
}
