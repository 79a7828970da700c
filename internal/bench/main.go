// Command bench measures the whole system on this machine: from a webhook to
// ready pods, and from an image that cannot be pulled to the old release
// serving alone. It prints what the README quotes. Run it with `make bench`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/internal/api"
	"github.com/tidegate-ci/tidegate/internal/demo"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

const (
	namespace = "tidegate-bench"
	patience  = 10 * time.Minute
	replicas  = 4
)

// pipelineFile is the shop's with a plain rolling update and no bake time: what
// is measured is Tidegate's own time, not the time it is told to wait.
const pipelineFile = `version: 1
name: shop
on: {push: {branches: [main]}}
stages:
  unit:
    image: golang:1.26
    run: go test ./...
    cache: [~/.cache/go-build]
  image:
    needs: [unit]
    build: {context: ., push: shop}
  production:
    needs: [image]
    deploy: {environment: production, manifests: k8s/, bake: 0s}
`

func main() {
	rounds := flag.Int("rounds", 5, "measured pushes")
	binary := flag.String("binary", ".bin/tidegate", "the tidegate binary")
	example := flag.String("example", "examples/shop", "folder of the example")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := measure(ctx, *binary, *example, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	forge   *demo.Forge
	server  *demo.Server
	cluster *demo.Cluster
	client  *api.Client
}

func measure(ctx context.Context, binary, example string, rounds int) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not done within %s", patience))
	defer cancel()
	if err := engineCost(ctx); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tidegate-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	kubeconfig := os.Getenv("KUBECONFIG")
	b := &bench{}
	if b.cluster, err = demo.OpenCluster(kubeconfig); err != nil {
		return err
	}
	if err := b.cluster.RenewNamespace(ctx, namespace); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.cluster.DeleteNamespace(context.WithoutCancel(ctx), namespace)) }()
	if b.forge, err = demo.NewForge(ctx, filepath.Join(dir, "shop"), "octo/shop"); err != nil {
		return err
	}
	defer b.forge.Close()
	if binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	if b.server, err = demo.NewServer(ctx, demo.ServerOptions{
		Binary: binary, Dir: filepath.Join(dir, "server"), Forge: b.forge, Kubeconfig: kubeconfig, Namespace: namespace,
	}); err != nil {
		return err
	}
	if err := b.server.Start(ctx); err != nil {
		return err
	}
	defer b.server.Kill()
	token, err := b.server.Token()
	if err != nil {
		return err
	}
	if b.client, err = api.NewClient(b.server.URL, token); err != nil {
		return err
	}
	if err := demo.PushGolang(ctx, b.server.Registry); err != nil {
		return err
	}
	if err := b.pushToReady(ctx, example, rounds); err != nil {
		return err
	}
	return b.unpullable(ctx, rounds)
}

// engineFigures finds what the engine's benchmark reports per stage, and what a
// durable write costs on this disk in the same run.
var engineFigures = regexp.MustCompile(`(?m)^Benchmark(Chain200|Fan200|Sync/\w+)\S*\s.*?([\d.]+) (µs/stage|µs-median)`)

// engineCost runs the engine's own benchmark, which knows what a stage costs
// with the durable journal.
func engineCost(ctx context.Context) error {
	output, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "Chain200|Fan200|Sync", "./pipeline/engine").CombinedOutput()
	if err != nil {
		return fmt.Errorf("the engine's benchmark: %w\n%s", err, output)
	}
	found := engineFigures.FindAllStringSubmatch(string(output), -1)
	if len(found) < 3 {
		return fmt.Errorf("the engine's benchmark printed no cost per stage:\n%s", output)
	}
	fmt.Println("engine with the durable journal (target ≤ 2000 µs per empty stage):")
	for _, match := range found {
		fmt.Printf("  %-15s %s %s\n", match[1], match[2], match[3])
	}
	return nil
}

// phases are the parts of a push, in seconds.
type phases struct {
	accept, plan, test, image, deploy, total float64
}

func (b *bench) pushToReady(ctx context.Context, example string, rounds int) error {
	files := map[string][]byte{}
	root := os.DirFS(example)
	if err := fs.WalkDir(root, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		files[path], err = fs.ReadFile(root, path)
		return err
	}); err != nil {
		return err
	}
	files[".tidegate.yaml"] = []byte(pipelineFile)
	source := files["handler.go"]
	var measured []phases
	// The first push is cold, the second fills the caches that a one-line
	// change leaves valid; the rest are measured.
	for i := range rounds + 2 {
		files["handler.go"] = []byte(strings.Replace(string(source), `const version = "v1"`, fmt.Sprintf(`const version = "v%d"`, i), 1))
		p, err := b.push(ctx, files)
		if err != nil {
			return err
		}
		switch {
		case i == 0:
			fmt.Printf("webhook → all %d new pods ready, cold: %.1f s\n", replicas, p.total)
		case i > 1:
			measured = append(measured, p)
		}
		files = map[string][]byte{}
	}
	median := func(of func(phases) float64) float64 {
		values := make([]float64, len(measured))
		for i, p := range measured {
			values[i] = of(p)
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	fmt.Printf("webhook → all %d new pods ready, one-line change, warm, median of %d (target ≤ 8 s): %.2f s\n",
		replicas, rounds, median(func(p phases) float64 { return p.total }))
	fmt.Printf("  accept the webhook %.3f s · fetch and plan %.3f s · test %.2f s · build and push %.2f s · roll out %.2f s\n",
		median(func(p phases) float64 { return p.accept }), median(func(p phases) float64 { return p.plan }),
		median(func(p phases) float64 { return p.test }), median(func(p phases) float64 { return p.image }),
		median(func(p phases) float64 { return p.deploy }))
	return nil
}

func (b *bench) push(ctx context.Context, files map[string][]byte) (phases, error) {
	commit, err := b.forge.Commit("change a line", files)
	if err != nil {
		return phases{}, err
	}
	began := time.Now()
	if err := b.forge.Push(ctx, b.server.URL, commit); err != nil {
		return phases{}, err
	}
	accepted := time.Now()
	state, err := b.follow(ctx, commit)
	if err != nil {
		return phases{}, err
	}
	if state.Status != journal.Succeeded {
		return phases{}, fmt.Errorf("the push failed: %s; the server's log ends with:\n%s", state.Message, b.server.LogTail(40))
	}
	seconds := func(id string) float64 {
		stage := state.Stage(id)
		return stage.Finished.Sub(stage.Started).Seconds()
	}
	return phases{
		accept: accepted.Sub(began).Seconds(), plan: state.Created.Sub(accepted).Seconds(),
		test: seconds("unit"), image: seconds("image"), deploy: seconds("production"),
		total: state.Stage("production").Finished.Sub(began).Seconds(),
	}, nil
}

func (b *bench) follow(ctx context.Context, commit string) (journal.State, error) {
	id, err := b.client.RunOf(ctx, b.forge.FullName, commit)
	if err != nil {
		return journal.State{}, err
	}
	var state journal.State
	_, err = b.client.Stream(ctx, id, api.StreamOptions{Follow: true}, func(item api.StreamItem) error {
		if item.Entry != nil {
			state.Apply(*item.Entry)
		}
		return nil
	})
	return state, err
}

// unpullable measures from the moment the API first shows ErrImagePull until
// only old pods are left, all of them ready.
func (b *bench) unpullable(ctx context.Context, rounds int) error {
	pods, err := b.cluster.WatchPods(ctx, namespace, "app=shop")
	if err != nil {
		return err
	}
	defer pods.Stop()
	var old string
	for image := range pods.Count() {
		old = image
	}
	manifest, err := b.forge.Read("k8s/shop.yaml")
	if err != nil {
		return err
	}
	var took []float64
	for i := range rounds {
		missing := fmt.Sprintf("%s/nowhere@sha256:%064x", b.server.Registry, i+1)
		broken := strings.Replace(string(manifest), "image: shop", "image: "+missing, 1)
		commit, err := b.forge.Commit("an image that is not there", map[string][]byte{"k8s/shop.yaml": []byte(broken)})
		if err != nil {
			return err
		}
		if err := b.forge.Push(ctx, b.server.URL, commit); err != nil {
			return err
		}
		if err := pods.WaitReason(ctx, missing, "ErrImagePull", "ImagePullBackOff"); err != nil {
			return err
		}
		first := time.Now()
		if err := pods.Wait(ctx, "only old pods", func(counts map[string]demo.PodCount) bool {
			return len(counts) == 1 && counts[old].Ready == replicas
		}); err != nil {
			return err
		}
		took = append(took, time.Since(first).Seconds())
		if _, err := b.follow(ctx, commit); err != nil {
			return err
		}
	}
	slices.Sort(took)
	fmt.Printf("first ErrImagePull → only the old release, fully serving, median of %d (target ≤ 5 s): %.2f s, worst %.2f s\n",
		rounds, took[len(took)/2], took[len(took)-1])
	return nil
}
