//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/internal/demo"
	"github.com/tidegate-ci/tidegate/internal/settings"
)

// marks is a directory in which stages leave traces and wait for signs.
type marks struct {
	t   *testing.T
	dir string
}

func newMarks(t *testing.T) marks { return marks{t: t, dir: t.TempDir()} }

// stage is a script that leaves one line in the file of its name.
func (m marks) stage(name string) string {
	return fmt.Sprintf("echo attempt >> %s", filepath.Join(m.dir, name))
}

// stageWaiting leaves its line, then ends when the sign appears.
func (m marks) stageWaiting(name, sign string) string {
	return m.stage(name) + fmt.Sprintf("; until [ -e %s ]; do sleep 0.05; done", filepath.Join(m.dir, sign))
}

func (m marks) count(name string) int {
	data, _ := os.ReadFile(filepath.Join(m.dir, name))
	return strings.Count(string(data), "\n")
}

func (m marks) give(sign string) {
	m.t.Helper()
	must(m.t, os.WriteFile(filepath.Join(m.dir, sign), nil, 0o600))
}

func TestKillWhileAStageRuns(t *testing.T) {
	t.Parallel()
	th, m := openTheatre(t, nil), newMarks(t)
	commit := th.push("work", map[string]string{".tidegate.yaml": fmt.Sprintf(`
version: 1
name: work
on: {push: {branches: [main]}}
stages:
  first: {run: %q}
  slow: {needs: [first], run: %q}
  last: {needs: [slow], run: %q}
`, m.stage("first"), m.stageWaiting("slow", "go"), m.stage("last"))})
	th.wait("the slow stage to start", func() bool { return m.count("slow") == 1 })
	th.server.Kill()
	must(t, th.server.Start(th.ctx))
	th.wait("the slow stage to be tried again", func() bool { return m.count("slow") == 2 })
	m.give("go")
	th.succeed(commit)
	if m.count("first") != 1 || m.count("slow") != 2 || m.count("last") != 1 {
		t.Fatalf("first ran %d times, slow %d, last %d: want 1, 2, 1", m.count("first"), m.count("slow"), m.count("last"))
	}
	th.runOf(commit)
}

// TestKillLosesNoEvent kills the server right after each acknowledgement.
func TestKillLosesNoEvent(t *testing.T) {
	t.Parallel()
	th, m := openTheatre(t, nil), newMarks(t)
	var commits []string
	for i := range 5 {
		commits = append(commits, th.push(fmt.Sprintf("change %d", i), map[string]string{
			"number": fmt.Sprint(i),
			".tidegate.yaml": fmt.Sprintf(`
version: 1
name: work
on: {push: {}}
stages:
  only: {run: "echo $TIDEGATE_COMMIT >> %s"}
`, filepath.Join(m.dir, "commits")),
		}))
		th.server.Kill()
		must(t, th.server.Start(th.ctx))
	}
	for _, commit := range commits {
		th.succeed(commit)
		th.runOf(commit)
	}
	data, err := os.ReadFile(filepath.Join(m.dir, "commits"))
	must(t, err)
	for _, commit := range commits {
		if !strings.Contains(string(data), commit) {
			t.Errorf("the stage never ran for commit %s", commit)
		}
	}
}

const buildAndDeploy = `
version: 1
name: shop
on: {push: {branches: [main]}}
stages:
  unit: {run: %q}
  image:
    needs: [unit]
    build: {push: shop}
  production:
    needs: [image]
    deploy: {environment: production, manifests: k8s/, bake: 1s%s}
`

func TestKillWhileAnImageIsPushed(t *testing.T) {
	t.Parallel()
	registry, m := newRegistryProxy(t), newMarks(t)
	th := openTheatre(t, registry.use)
	registry.hold()
	commit := th.push("v1", prebuilt(t, "v1", "", fmt.Sprintf(buildAndDeploy, m.stage("unit"), "")))
	select {
	case <-registry.held:
	case <-th.ctx.Done():
		t.Fatal("no upload was seen")
	}
	th.server.Kill()
	registry.release()
	must(t, th.server.Start(th.ctx))
	th.succeed(commit)
	if m.count("unit") != 1 {
		t.Fatalf("the finished stage ran %d times", m.count("unit"))
	}
}

func TestARegistryThatRefusesForAWhile(t *testing.T) {
	t.Parallel()
	registry, m := newRegistryProxy(t), newMarks(t)
	registry.refuse = []int{500, 429, 503, 500}
	th := openTheatre(t, registry.use)
	th.succeed(th.push("v1", prebuilt(t, "v1", "", fmt.Sprintf(buildAndDeploy, m.stage("unit"), ""))))
	if left := registry.refusalsLeft(); left != 0 {
		t.Fatalf("%d refusals were never met: the test tested less than it says", left)
	}
}

const canarySteps = `, strategy: {canary: {steps: [{weight: 25, hold: 4s}, {weight: 50, hold: 4s}]}}`

// inCanary brings v1 up, pushes v2 and returns when v2's canary has a pod.
func inCanary(t *testing.T, th *theatre, m marks) (commit string, pods *demo.PodWatch, stable string) {
	t.Helper()
	pipeline := fmt.Sprintf(buildAndDeploy, m.stage("unit"), canarySteps)
	th.succeed(th.push("v1", prebuilt(t, "v1", "", pipeline)))
	pods, err := th.cluster.WatchPods(th.ctx, th.namespace, "app=shop")
	must(t, err)
	t.Cleanup(pods.Stop)
	must(t, pods.Wait(th.ctx, "four pods of v1", func(counts map[string]demo.PodCount) bool {
		for image, count := range counts {
			stable = image
			return len(counts) == 1 && count.Ready == 4 && count.Present == 4
		}
		return false
	}))
	commit = th.push("v2", prebuilt(t, "v2", "", pipeline))
	must(t, pods.Wait(th.ctx, "a canary pod", func(counts map[string]demo.PodCount) bool {
		return len(counts) == 2 && counts[stable].Ready == 4
	}))
	return commit, pods, stable
}

// promoted demands that only the new image is left, with all its replicas, and
// no canary Deployment.
func promoted(t *testing.T, th *theatre, pods *demo.PodWatch, old string) {
	t.Helper()
	must(t, pods.Wait(th.ctx, "only new pods", func(counts map[string]demo.PodCount) bool {
		for image, count := range counts {
			return image != old && len(counts) == 1 && count.Ready == 4 && count.Present == 4
		}
		return false
	}))
	deployments, err := th.cluster.Client.AppsV1().Deployments(th.namespace).List(th.ctx, metav1.ListOptions{})
	must(t, err)
	if len(deployments.Items) != 1 || deployments.Items[0].Name != "shop" {
		t.Fatalf("after the promotion there are %d Deployments, want only shop", len(deployments.Items))
	}
}

func TestKillInTheMiddleOfACanary(t *testing.T) {
	t.Parallel()
	th, m := openTheatre(t, nil), newMarks(t)
	commit, pods, old := inCanary(t, th, m)
	th.server.Kill()
	must(t, th.server.Start(th.ctx))
	th.succeed(commit)
	promoted(t, th, pods, old)
	if m.count("unit") != 2 {
		t.Fatalf("unit ran %d times for two commits", m.count("unit"))
	}
}

// TestAPIServerAwayInACanary is not parallel: it takes the API server from all.
func TestAPIServerAwayInACanary(t *testing.T) {
	th, m := openTheatre(t, nil), newMarks(t)
	commit, pods, old := inCanary(t, th, m)
	component(t, th.ctx, "stop")
	away := time.NewTimer(10 * time.Second)
	defer away.Stop()
	select {
	case <-away.C:
	case <-th.ctx.Done():
	}
	component(t, context.WithoutCancel(th.ctx), "start")
	th.succeed(commit)
	promoted(t, th, pods, old)
}

func component(t *testing.T, ctx context.Context, verb string) {
	t.Helper()
	output, err := exec.CommandContext(ctx, os.Getenv("TIDEGATE_CLUSTER_BINARY"), "component", verb, "kube-apiserver").CombinedOutput()
	if err != nil {
		t.Fatalf("%s the API server: %v\n%s", verb, err, output)
	}
}

func TestAFullDiskRefusesTheEvent(t *testing.T) {
	t.Parallel()
	disk, m := t.TempDir(), newMarks(t)
	must(t, syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=24m"))
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	th := openTheatre(t, func(s *settings.Settings) { s.Data = disk })
	commit, err := th.forge.Commit("work", map[string][]byte{".tidegate.yaml": fmt.Appendf(nil, `
version: 1
name: work
on: {push: {}}
stages:
  only: {run: %q}
`, m.stage("only"))})
	must(t, err)

	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	body, err := th.forge.PushPayload(commit)
	must(t, err)
	// What is free inside the database's own pages is used up first: each
	// delivery is another event, and in the end one must be refused.
	refused := false
	for i := range 2000 {
		request, err := th.forge.HookRequest(th.ctx, th.server.URL, fmt.Sprintf("full-%d", i), body)
		must(t, err)
		response, err := http.DefaultClient.Do(request)
		must(t, err)
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode == http.StatusServiceUnavailable {
			refused = true
			break
		}
		if response.StatusCode != http.StatusAccepted {
			t.Fatalf("delivery %d was answered with %s", i, response.Status)
		}
	}
	if !refused {
		t.Fatal("no delivery was refused though the disk is full")
	}
	must(t, os.Remove(ballast))
	must(t, th.forge.Push(th.ctx, th.server.URL, commit))
	th.wait("the stage to run once there is room again", func() bool { return m.count("only") > 0 })
}

func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	must(t, err)
	defer file.Close()
	for _, size := range []int{1 << 20, 4096, 1} {
		block := make([]byte, size)
		for {
			if _, err := file.Write(block); err != nil {
				break
			}
		}
	}
}
