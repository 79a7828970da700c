//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/rollout"
)

const (
	// mostWrites bounds the search for a command's last write.
	mostWrites = 120
	// Killed before write n+1 the cluster is as it is after write n, so that both
	// moments of every other write are all states that a crash can leave.
	everyState = 2
)

// underTraffic tells whether the rollouts are of real pods under live traffic
// (TIDEGATE_CRASHES=traffic, make test-crash). They are more than a hundred, and
// KWOK plays their pods otherwise.
var underTraffic = os.Getenv("TIDEGATE_CRASHES") == "traffic"

// lanes is how many applications are rolled out side by side, each in a namespace
// of its own: most of a run is waiting for a dead owner's lease.
func lanes() int {
	if underTraffic {
		return 3
	}
	return 6
}

// scenario is a command that is killed at each of its writes.
type scenario struct {
	name string
	// args of "tidegate rollout"; image is the one that the lane does not run.
	args func(image string) []string
	ends rollout.State
	// stays tells that what ran before runs in the end.
	stays bool
	// writes are some of those that it must have made.
	writes []string
}

var scenarios = []scenario{
	{name: "canary", ends: rollout.Verified,
		args: func(image string) []string {
			return []string{"start", "shop", "-f", "shop.yaml", "--image", "shop=" + image, "--canary", "50", "--bake", "1s"}
		},
		writes: []string{"POST secrets", "PUT configmaps/tidegate-shop", "PATCH deployments/shop-canary", "PATCH pods/", "PATCH deployments/shop",
			"DELETE deployments/shop-canary", "DELETE configmaps/shop-", "POST leases", "DELETE leases/tidegate-"}},
	{name: "rollback", ends: rollout.Verified,
		args:   func(string) []string { return []string{"rollback", "shop"} },
		writes: []string{"POST secrets", "PUT configmaps/tidegate-shop", "PATCH deployments/shop", "POST leases", "DELETE leases/tidegate-"}},
	{name: "blue-green", ends: rollout.Verified,
		args: func(image string) []string {
			return []string{"start", "shop", "-f", "shop.yaml", "--image", "shop=" + image, "--strategy", "blue-green", "--keep-old", "1s", "--bake", "0s"}
		},
		writes: []string{"PATCH deployments/shop-preview", "PATCH services/shop-preview", "PATCH services/shop", "PATCH pods/", "DELETE deployments/shop-preview"}},
	{name: "taken back", ends: rollout.RolledBack, stays: true,
		args: func(string) []string {
			return []string{"start", "shop", "-f", "shop.yaml", "--image", "shop=" + images.Missing(), "--bake", "0s"}
		},
		writes: []string{"PATCH deployments/shop", "PUT configmaps/tidegate-shop", "DELETE configmaps/shop-"}},
}

// crash is one run: the command of a scenario, killed at its n-th write.
type crash struct {
	scenario int
	n        int
	answered bool
}

func (c crash) of() *scenario { return &scenarios[c.scenario] }

func (c crash) String() string {
	when := "before"
	if c.answered {
		when = "after"
	}
	return fmt.Sprintf("%s/%s write %d", c.of().name, when, c.n)
}

// ending is how a run left the cluster.
type ending struct {
	crash
	struck string   // what was being written; "" when it was not disturbed
	writes []string // all that the process wrote
	left   string
}

// A process that is killed at any write to the API server, before or after that
// is done, leaves a rollout that goes on to the same end, and whose Service never
// has too few good pods meanwhile.
func TestKilledAtEveryWriteEndsAlike(t *testing.T) {
	t.Parallel()
	images := [2]string{image(t, "VERSION=1"), image(t, "VERSION=2")}
	runs, stop := make(chan crash), make(chan struct{})
	last := make([]atomic.Bool, len(scenarios)) // whether a scenario's last write has been found
	var mu sync.Mutex
	var endings []ending
	var asking, working sync.WaitGroup
	asking.Go(func() {
		defer close(runs)
		for n := 1; n <= mostWrites; n += everyState {
			for i := range scenarios {
				for _, answered := range []bool{false, true} {
					if last[i].Load() {
						continue
					}
					select {
					case runs <- crash{i, n, answered}:
					case <-stop:
						return
					}
				}
			}
		}
	})
	for i := range lanes() {
		working.Go(func() {
			t.Run(fmt.Sprintf("lane %d", i+1), func(t *testing.T) {
				l := openLane(t, images)
				for c := range runs {
					ok := t.Run(c.String(), func(t *testing.T) {
						e := l.killed(t, c)
						if e.struck == "" {
							last[c.scenario].Store(true)
						}
						mu.Lock()
						defer mu.Unlock()
						endings = append(endings, e)
					})
					if !ok {
						return // its application is not as the next run needs it
					}
				}
			})
		})
	}
	working.Wait()
	close(stop)
	asking.Wait()
	if t.Failed() {
		return
	}
	for i := range scenarios {
		compare(t, i, endings)
	}
}

// compare holds the endings of a scenario to the one that was not disturbed.
func compare(t *testing.T, i int, endings []ending) {
	t.Helper()
	s := scenarios[i]
	var reference *ending
	places := map[string]int{}
	kills := 0
	var all []string
	for j := range endings {
		e := &endings[j]
		if e.scenario != i {
			continue
		}
		all = append(all, e.writes...)
		if e.struck == "" {
			reference = e
			continue
		}
		places[e.struck]++
		kills++
	}
	require.NotNil(t, reference, "%s has more than %d writes", s.name, mostWrites)
	for _, e := range endings {
		if e.scenario == i && e.left != reference.left {
			t.Errorf("%s (%s) ended otherwise than undisturbed:\n%s", e.crash, e.struck, cmp.Diff(reference.left, e.left))
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	for _, want := range s.writes {
		if !slices.ContainsFunc(all, func(write string) bool { return strings.HasPrefix(write, want) }) {
			t.Errorf("%s never writes %s; it writes %v", s.name, want, all)
		}
	}
	t.Logf("%s: killed %d times, at %v", s.name, kills, places)
}

// lane is an application that serves through all of its runs.
type lane struct {
	w      *world
	images [2]string
	runs   int     // image and configuration differ from run to run
	live   *stream // nil where there is no traffic
	fewest func() int
}

// manifests are of the application: two pods, neither of which may be missing.
func (l *lane) manifests() string {
	two := l.w.onPlayedNodes(2)
	if underTraffic {
		// They go on for long when they are told to stop: with so much going on side by
		// side, the news of that takes a while to reach every Service.
		two = strings.NewReplacer("replicas: 3", "replicas: 2", "terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 20",
			"        envFrom:", "        lifecycle: {preStop: {sleep: {seconds: 12}}}\n        envFrom:").Replace(shop)
	}
	return strings.Replace(two, "GREETING: hello", fmt.Sprintf("GREETING: hello-%d", l.runs), 1)
}

func (l *lane) image() string { return l.images[l.runs%2] }

func openLane(t *testing.T, images [2]string) *lane {
	l := &lane{w: openWorld(t, 50*time.Minute), images: images}
	if !underTraffic {
		l.w.playedNode("a")
	}
	l.plain(l.w)
	if underTraffic {
		l.w.answersWith("shop", "1")
		l.live = l.w.steady("shop", 1, 50*time.Millisecond)
	}
	l.fewest = l.w.fewestReady("app=shop")
	return l
}

// plain rolls the next release out without disturbance.
func (l *lane) plain(w *world) {
	w.Helper()
	r := w.request(l.image(), 0)
	r.Release = w.release(l.manifests(), l.image())
	result, err := w.controller().Start(w.ctx, r, nil)
	require.NoError(w, err)
	require.Equal(w, rollout.Verified, result.Rollout.State)
	l.runs++
}

// killed runs a command that is killed, and whatever goes on after it.
func (l *lane) killed(t *testing.T, c crash) ending {
	w := *l.w
	w.T = t
	before, _, err := w.controller().Status(w.ctx, w.target())
	require.NoError(t, err)
	// A canary deletes the configuration of the release before its base, which is gone
	// already when that base has just been returned to.
	if c.of().name == "rollback" && verified(before) < 2 || c.of().name == "canary" && before.Current.State == rollout.RolledBack {
		l.plain(&w)
		before, _, err = w.controller().Status(w.ctx, w.target())
		require.NoError(t, err)
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "shop.yaml"), []byte(l.manifests()), 0o600))
	args := c.of().args(l.image())
	l.runs++

	struck, writes, out, err := w.through(c.n, c.answered, dir, args...)
	if struck == "" {
		w.exits(c, err, out)
	} else {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "%s", out)
		require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "%s", out)
		t.Logf("killed at %s", struck)
		w.goesOn(c, dir, args, before.Revisions)
	}

	record, _, err := w.controller().Status(w.ctx, w.target())
	require.NoError(t, err)
	require.Equal(t, before.Revisions+1, record.Current.Revision, "one release, one revision")
	require.Equal(t, c.of().ends, record.Current.State, record.Current.Sentence())
	require.Nil(t, record.Command)
	serves := record.Revision(record.Verified)
	if c.of().stays {
		require.Equal(t, before.Verified, record.Verified)
	} else {
		require.Equal(t, record.Current.Revision, record.Verified)
		require.NotEmpty(t, record.Current.Gates, "no promotion without a gate")
	}
	require.Len(t, serves.Images, 1)
	w.settles(map[string]int{serves.Images[0]: 2})
	require.GreaterOrEqual(t, l.fewest(), 2, "good pods were missing")
	if l.live != nil {
		require.Empty(t, l.live.failed(), "requests failed")
	}
	w.age()
	return ending{crash: c, struck: struck, writes: writes, left: w.left(record, serves.Images[0])}
}

// exits checks that a command that came to the end of a rollout says how that went.
func (w *world) exits(c crash, err error, out []byte) {
	w.Helper()
	if c.of().ends == rollout.Verified {
		require.NoError(w, err, "%s", out)
		return
	}
	var exit *exec.ExitError
	require.ErrorAs(w, err, &exit, "%s", out)
	require.Equal(w, 1, exit.ExitCode(), "%s", out)
}

// failed are the requests without an answer until now; the stream goes on.
func (s *stream) failed() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.failures)
}

func verified(record *rollout.Record) int {
	n := 0
	for i := range record.History {
		if record.History[i].Verified() {
			n++
		}
	}
	return n
}

// goesOn does what people do when the process is gone: resume, or when nothing
// had begun, the same command again. After some kills the dead owner's lease is
// waited out; the others are found when it is long over.
func (w *world) goesOn(c crash, dir string, args []string, known int) {
	w.Helper()
	if c.n%8 != 1 {
		w.age()
	}
	record, _, err := w.controller().Status(w.ctx, w.target())
	require.NoError(w, err)
	switch {
	case record.Live() && c.answered:
		out, err := exec.CommandContext(w.ctx, tidegate, "rollout", "resume", "shop", "-n", w.namespace, "--by", "oncall").CombinedOutput()
		w.exits(c, err, out)
	case record.Live():
		_, err := w.controller().Continue(w.ctx, w.target(), w.log(nil))
		if c.of().ends == rollout.Verified {
			require.NoError(w, err)
		} else {
			require.ErrorIs(w, err, rollout.ErrFailed)
		}
	case record.Current.Revision > known: // had come to its end
	default:
		command := exec.CommandContext(w.ctx, tidegate, append([]string{"rollout", "-n", w.namespace, "--by", "oncall"}, args...)...)
		command.Dir = dir
		out, err := command.CombinedOutput()
		var exit *exec.ExitError
		if c.of().ends == rollout.Verified {
			require.NoError(w, err, "%s", out)
		} else {
			require.True(w, errors.As(err, &exit) && exit.ExitCode() == 1, "%v: %s", err, out)
		}
	}
}

var (
	greeting   = regexp.MustCompile(`hello-\d+`)
	configName = regexp.MustCompile(`^shop-[0-9a-f]{10}$`)
)

// left describes all that a rollout may have written, without what differs from
// run to run: numbers of revisions, digests, and which image and configuration.
func (w *world) left(record *rollout.Record, image string) string {
	w.Helper()
	type object struct {
		Name                string
		Labels, Annotations map[string]string
		Managers            []string
		Content             any
	}
	var all []object
	add := func(kind string, meta metav1.ObjectMeta, content any) {
		o := object{Name: kind + "/" + meta.Name, Labels: meta.Labels, Annotations: meta.Annotations, Content: content}
		for _, key := range []string{"deployment.kubernetes.io/revision", "tidegate.dev/revision", "tidegate.dev/release"} {
			if _, ok := o.Annotations[key]; ok {
				o.Annotations[key] = "…"
			}
		}
		for _, entry := range meta.ManagedFields {
			if name := entry.Manager + "/" + entry.Subresource; !slices.Contains(o.Managers, name) {
				o.Managers = append(o.Managers, name)
			}
		}
		slices.Sort(o.Managers)
		all = append(all, o)
	}
	deployments, err := kube.AppsV1().Deployments(w.namespace).List(w.ctx, metav1.ListOptions{})
	require.NoError(w, err)
	config := ""
	for _, d := range deployments.Items {
		config = d.Spec.Template.Spec.Containers[0].EnvFrom[0].ConfigMapRef.Name
		add("Deployment", d.ObjectMeta, d.Spec)
	}
	services, err := kube.CoreV1().Services(w.namespace).List(w.ctx, metav1.ListOptions{})
	require.NoError(w, err)
	for _, s := range services.Items {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
		add("Service", s.ObjectMeta, s.Spec)
	}
	configs, err := kube.CoreV1().ConfigMaps(w.namespace).List(w.ctx, metav1.ListOptions{})
	require.NoError(w, err)
	for _, c := range configs.Items {
		if configName.MatchString(c.Name) {
			role := "shop-before"
			if c.Name == config {
				role = "shop-now"
			}
			c.Name = role
			add("ConfigMap", c.ObjectMeta, c.Data)
		}
	}
	for _, known := range append(slices.Clone(record.History), *record.Current) {
		_, err := kube.CoreV1().Secrets(w.namespace).Get(w.ctx, fmt.Sprintf("tidegate-shop-r%d", known.Revision), metav1.GetOptions{})
		require.NoError(w, err, "the manifests of revision %d, which is in the history", known.Revision)
	}
	inventory := map[string]bool{}
	for _, ref := range record.Inventory {
		if configName.MatchString(ref.Name) {
			ref.Name = "shop-*"
		}
		inventory[ref.Kind+"/"+ref.Name] = true
	}
	slices.SortFunc(all, func(a, b object) int { return strings.Compare(a.Name, b.Name) })
	text, err := json.MarshalIndent(struct {
		Objects   []object
		Inventory map[string]bool
		Gates     int
	}{all, inventory, len(record.Current.Gates)}, "", " ")
	require.NoError(w, err)
	return greeting.ReplaceAllString(strings.NewReplacer(image, "IMAGE", `"`+config+`"`, `"CONFIG"`, w.namespace, "NAMESPACE").Replace(string(text)), "hello-N")
}
