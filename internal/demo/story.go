// Package demo plays Tidegate's main job on one machine with real parts, and
// provides those parts to the end-to-end tests: a forge, a server process, a
// steady stream of requests, and eyes on the cluster.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/internal/api"
	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
	"github.com/tidegate-ci/tidegate/internal/termtext"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// Options say with what the story is played.
type Options struct {
	Binary string // the tidegate binary
	// ClusterBinary starts a local Kubernetes when Kubeconfig is empty.
	ClusterBinary string
	Kubeconfig    string
	// Example is the folder of examples/shop.
	Example string
	// Dir holds everything the story makes; it is removed at the end unless Keep.
	Dir string
	// Keep leaves everything running and says how to look around.
	Keep bool
	// Out gets the timeline; nil prints nothing.
	Out io.Writer
}

// Report is what happened, for machines.
type Report struct {
	Acts    []Act         `json:"acts"`
	Traffic TrafficReport `json:"traffic"`
	Seconds float64       `json:"seconds"`
}

// Act is one part of the story.
type Act struct {
	Name    string  `json:"name"`
	Commit  string  `json:"commit,omitempty"`
	RunID   string  `json:"runID,omitempty"`
	Outcome string  `json:"outcome"`
	Seconds float64 `json:"seconds"`
	// Stages are the run's stages and how long each took, in seconds.
	Stages map[string]float64 `json:"stages,omitempty"`
}

const (
	fullName  = "octo/shop"
	appName   = "shop"
	replicas  = 4
	podLabel  = "app=shop"
	perSecond = 50 // requests
	// patience bounds one part of the story; the first compiles Go's standard
	// library, which takes minutes on a busy machine.
	patience = 15 * time.Minute
)

// crash is the third version's fault: every test passes, the pod turns ready,
// and two seconds later it is gone.
const crash = `package main

import (
	"log"
	"time"
)

func misbehave() {
	time.AfterFunc(2*time.Second, func() { log.Fatal("out of rope") })
}
`

type story struct {
	Options
	*Timeline
	forge     *Forge
	server    *Server
	cluster   *Cluster
	client    *api.Client
	pods      *PodWatch
	traffic   *Traffic
	namespace string
	report    Report
	// stopCluster is set when the story itself started the cluster.
	stopCluster bool
	// images are the references that v1, v2 and v3 ran as.
	images map[string]string
}

// Play plays the whole story. The error says which part did not happen; the
// report tells what did until then.
func Play(ctx context.Context, options Options) (report Report, err error) {
	s := &story{Options: options, Timeline: NewTimeline(options.Out, time.Now), namespace: "tidegate-demo", images: map[string]string{}}
	began := time.Now()
	defer func() { report.Seconds = time.Since(began).Seconds() }()
	if !options.Keep {
		defer func() { err = errors.Join(err, s.cleanUp(context.WithoutCancel(ctx))) }()
	}
	for _, part := range []func(context.Context) error{
		s.startCluster, s.startServer, s.pushFirst, s.pushSecond, s.pushThird, s.rollBack, s.closeTraffic,
	} {
		if err := s.patiently(ctx, part); err != nil {
			return s.report, err
		}
	}
	if options.Keep {
		s.lookAround()
	}
	return s.report, nil
}

func (s *story) patiently(ctx context.Context, part func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("nothing came of it within %s", patience))
	defer cancel()
	return part(ctx)
}

func (s *story) startCluster(ctx context.Context) error {
	if s.Kubeconfig == "" {
		s.Act("start a local Kubernetes")
		ours := exec.CommandContext(ctx, s.ClusterBinary, "status").Run() != nil
		if err := s.command(ctx, s.ClusterBinary, "up"); err != nil {
			return fmt.Errorf("start the local Kubernetes: %w", err)
		}
		path, err := exec.CommandContext(ctx, s.ClusterBinary, "kubeconfig", "--path").Output()
		if err != nil {
			return fmt.Errorf("ask for the local cluster's kubeconfig: %w", err)
		}
		s.Kubeconfig, s.stopCluster = strings.TrimSpace(string(path)), ours
	}
	cluster, err := OpenCluster(s.Kubeconfig)
	if err != nil {
		return err
	}
	s.cluster = cluster
	version, err := cluster.Client.Discovery().ServerVersion()
	if err != nil {
		return fmt.Errorf("ask the cluster's version: %w", err)
	}
	s.Say("Kubernetes %s is ready", version.GitVersion)
	if err := cluster.RenewNamespace(ctx, s.namespace); err != nil {
		return err
	}
	return nil
}

func (s *story) startServer(ctx context.Context) error {
	s.Act("start tidegate serve, with a Git repository and an empty registry")
	forge, err := NewForge(ctx, filepath.Join(s.Dir, "shop"), fullName)
	if err != nil {
		return err
	}
	s.forge = forge
	server, err := NewServer(ctx, ServerOptions{
		Binary: s.Binary, Dir: filepath.Join(s.Dir, "server"), Forge: forge, Kubeconfig: s.Kubeconfig, Namespace: s.namespace,
		Outlive: s.Keep,
	})
	if err != nil {
		return err
	}
	if err := server.Start(ctx); err != nil {
		return err
	}
	s.server = server
	token, err := server.Token()
	if err != nil {
		return fmt.Errorf("read the server's admin token: %w", err)
	}
	if s.client, err = api.NewClient(server.URL, token); err != nil {
		return err
	}
	s.Say("listening on %s, registry on %s", server.URL, server.Registry)
	if err := PushGolang(ctx, server.Registry); err != nil {
		return err
	}
	s.Say("made the base image golang:1.26 from this machine's Go and pushed it")
	return nil
}

func (s *story) pushFirst(ctx context.Context) error {
	s.Act("git push v1: test, build, push, deploy")
	files, err := exampleFiles(s.Example)
	if err != nil {
		return err
	}
	if _, err := s.push(ctx, "v1", "Open the shop", files, "success"); err != nil {
		return err
	}
	if s.pods, err = s.cluster.WatchPods(context.WithoutCancel(ctx), s.namespace, podLabel); err != nil {
		return err
	}
	if err := s.settled(ctx, "v1"); err != nil {
		return err
	}
	url, err := s.cluster.ServiceURL(ctx, s.namespace, appName)
	if err != nil {
		return err
	}
	s.traffic = StartTraffic(context.WithoutCancel(ctx), url, time.Second/perSecond)
	if err := s.traffic.WaitAnswer(ctx, "v1", perSecond); err != nil {
		return err
	}
	s.Say("%d pods answer %d requests a second at %s with v1", replicas, perSecond, url)
	return nil
}

func (s *story) pushSecond(ctx context.Context) error {
	s.Act("git push v2: canary in steps, then promoted")
	files, err := s.edit("v2")
	if err != nil {
		return err
	}
	together := make(chan error, 1)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		together <- s.pods.Wait(watching, "a canary beside the stable release", func(counts map[string]PodCount) bool {
			return len(counts) == 2 && counts[s.images["v1"]].Ready == replicas
		})
	}()
	if _, err := s.push(ctx, "v2", "Second edition", files, "success"); err != nil {
		return err
	}
	stop()
	if err := <-together; err != nil {
		return fmt.Errorf("v2 was promoted, but no canary stood beside all %d pods of v1: %w", replicas, err)
	}
	if err := s.settled(ctx, "v2"); err != nil {
		return err
	}
	if err := s.traffic.WaitAnswer(ctx, "v2", perSecond); err != nil {
		return err
	}
	s.Say("all %d pods run v2", replicas)
	return nil
}

func (s *story) pushThird(ctx context.Context) error {
	s.Act("git push v3: passes its tests, turns ready, crashes two seconds later")
	files, err := s.edit("v3")
	if err != nil {
		return err
	}
	files["misbehave.go"] = []byte(crash)
	s.pods.Guard(s.images["v2"])
	act, err := s.push(ctx, "v3", "Third time unlucky", files, "failure")
	if err != nil {
		return err
	}
	if err := s.pods.Wait(ctx, "only pods of v2", func(counts map[string]PodCount) bool {
		return len(counts) == 1 && counts[s.images["v2"]].Ready == replicas
	}); err != nil {
		return err
	}
	if lowest := s.pods.Lowest(s.images["v2"]); lowest < replicas {
		return fmt.Errorf("while v3 failed, ready pods of v2 fell to %d of %d", lowest, replicas)
	}
	s.Say("rolled back by itself; v2 never had fewer than %d ready pods", replicas)
	if served := s.traffic.Report().Versions["v3"]; served > 0 {
		return fmt.Errorf("the version that crashes answered %d requests (run %s)", served, act.RunID)
	}
	s.Say("v3 never answered a request")
	return nil
}

func (s *story) rollBack(ctx context.Context) error {
	s.Act("tidegate rollout rollback %s --to 1", appName)
	began := time.Now()
	if err := s.command(ctx, s.Binary, "rollout", "rollback", appName, "--to", "1", "--namespace", s.namespace, "--kubeconfig", s.Kubeconfig); err != nil {
		return fmt.Errorf("roll back to v1: %w", err)
	}
	if err := s.settled(ctx, "v1"); err != nil {
		return err
	}
	if err := s.traffic.WaitAnswer(ctx, "v1", perSecond); err != nil {
		return err
	}
	s.report.Acts = append(s.report.Acts, Act{Name: "rollback to v1", Outcome: "success", Seconds: time.Since(began).Seconds()})
	s.Say("all %d pods run v1 again", replicas)
	return s.command(ctx, s.Binary, "rollout", "history", appName, "--namespace", s.namespace, "--kubeconfig", s.Kubeconfig)
}

func (s *story) closeTraffic(context.Context) error {
	s.report.Traffic = s.traffic.Stop()
	report := s.report.Traffic
	s.traffic = nil
	s.Act("%d requests were sent, %d failed; answers by version: %v", report.Requests, report.Failed, report.Versions)
	for _, act := range s.report.Acts {
		s.Say("%-16s %-8s %5.1f s", act.Name, act.Outcome, act.Seconds)
	}
	if report.Failed > 0 {
		return fmt.Errorf("%d of %d requests failed, first: %s", report.Failed, report.Requests, strings.Join(report.Failures, "; "))
	}
	return nil
}

// push commits, announces and follows a version until its run ends as wanted.
func (s *story) push(ctx context.Context, version, message string, files map[string][]byte, want string) (Act, error) {
	began := time.Now()
	commit, err := s.forge.Commit(message, files)
	if err != nil {
		return Act{}, err
	}
	if err := s.forge.Push(ctx, s.server.URL, commit); err != nil {
		return Act{}, err
	}
	s.Say("commit %.7s pushed, webhook accepted", commit)
	run, err := s.follow(ctx, commit)
	if err != nil {
		return Act{}, err
	}
	status, err := s.forge.WaitStatus(ctx, commit)
	if err != nil {
		return Act{}, err
	}
	act := Act{Name: "push " + version, Commit: commit, RunID: run.RunID, Outcome: status.State, Seconds: time.Since(began).Seconds(), Stages: map[string]float64{}}
	for _, stage := range run.Stages {
		act.Stages[stage.ID] = stage.Finished.Sub(stage.Started).Seconds()
		if image := stage.Outputs["image"]; image != "" {
			s.images[version] = image
		}
	}
	s.report.Acts = append(s.report.Acts, act)
	s.Say("commit status: %s, %s", status.State, termtext.Clean(status.Description))
	if status.State != want {
		return act, fmt.Errorf("the push of %s ended with %s (%s), want %s; the server's log ends with:\n%s", version, status.State, status.Description, want, s.server.LogTail(30))
	}
	return act, nil
}

// follow waits for the commit's run and tells its stages' progress until it ends.
func (s *story) follow(ctx context.Context, commit string) (journal.State, error) {
	id, err := s.client.RunOf(ctx, fullName, commit)
	if err != nil {
		return journal.State{}, err
	}
	var state journal.State
	_, err = s.client.Stream(ctx, id, api.StreamOptions{Follow: true}, func(item api.StreamItem) error {
		if item.Entry == nil {
			return nil
		}
		state.Apply(*item.Entry)
		switch entry := item.Entry; entry.Type {
		case journal.StageProgress:
			s.Say("  %-10s %s", entry.Stage, termtext.Clean(entry.Message))
		case journal.StageFinished:
			stage := state.Stage(entry.Stage)
			s.Say("  %-10s %s in %.1f s  %s", entry.Stage, entry.Status, stage.Finished.Sub(stage.Started).Seconds(), termtext.Clean(entry.Message))
		}
		return nil
	})
	if err != nil {
		return state, fmt.Errorf("follow run %s: %w", id, err)
	}
	return state, nil
}

// settled waits until the version's pods are all there is.
func (s *story) settled(ctx context.Context, version string) error {
	image := s.images[version]
	return s.pods.Wait(ctx, "only pods of "+version, func(counts map[string]PodCount) bool {
		return len(counts) == 1 && counts[image] == PodCount{Present: replicas, Ready: replicas}
	})
}

var versionLine = lazyregexp.New(`const version = ".*"`)

// edit is the one-line change that makes a version.
func (s *story) edit(version string) (map[string][]byte, error) {
	source, err := s.forge.Read("handler.go")
	if err != nil {
		return nil, err
	}
	return map[string][]byte{"handler.go": versionLine().ReplaceAll(source, fmt.Appendf(nil, "const version = %q", version))}, nil
}

// command runs a program and puts its output into the timeline.
func (s *story) command(ctx context.Context, name string, arguments ...string) error {
	command := exec.CommandContext(ctx, name, arguments...)
	output, err := command.CombinedOutput()
	for _, line := range termtext.Lines(strings.TrimRight(string(output), "\n")) {
		s.Say("  %s", line)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(name), strings.Join(arguments, " "), err)
	}
	return nil
}

func exampleFiles(dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		files[path], err = fs.ReadFile(root, path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the example %s: %w", dir, err)
	}
	return files, nil
}

func (s *story) lookAround() {
	token, _ := s.server.Token()
	s.Act("everything is left running; to look around:")
	s.Say("export KUBECONFIG=%s TIDEGATE_SERVER=%s TIDEGATE_TOKEN=%s", s.Kubeconfig, s.server.URL, token)
	s.Say("%s runs list; %s rollout status %s -n %s", s.Binary, s.Binary, appName, s.namespace)
	s.Say("the server's process is %d, its files are in %s", s.server.Pid(), s.Dir)
	if s.stopCluster {
		s.Say("to end it: kill %d; %s down; rm -r %s", s.server.Pid(), s.ClusterBinary, s.Dir)
	}
}

func (s *story) cleanUp(ctx context.Context) error {
	var problems []error
	if s.traffic != nil {
		s.report.Traffic = s.traffic.Stop()
	}
	if s.pods != nil {
		s.pods.Stop()
	}
	if s.server != nil {
		problems = append(problems, s.server.Stop())
	}
	if s.forge != nil {
		problems = append(problems, s.forge.Close())
	}
	if s.stopCluster {
		s.Act("stop the local Kubernetes")
		problems = append(problems, s.command(ctx, s.ClusterBinary, "down"))
	} else if s.cluster != nil {
		problems = append(problems, s.cluster.DeleteNamespace(ctx, s.namespace))
	}
	problems = append(problems, os.RemoveAll(s.Dir))
	return errors.Join(problems...)
}
