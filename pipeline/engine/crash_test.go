package engine

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
	"github.com/tidegate-ci/tidegate/pipeline/journal/sqlite"
)

// childDirectory makes the test binary a worker: the crash tests kill real processes.
const childDirectory = "TIDEGATE_ENGINE_TEST_CHILD"

func TestMain(m *testing.M) {
	if directory := os.Getenv(childDirectory); directory != "" {
		if err := child(directory); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child serves the journal in the directory until it is killed, or told to
// stop. It writes what its stages do to the file "effects" and submits the
// runs named on its standard input, confirming each on standard output.
func child(directory string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	j, err := sqlite.Open(ctx, filepath.Join(directory, "journal.db"), sqlite.Options{})
	if err != nil {
		return err
	}
	effects, err := os.OpenFile(filepath.Join(directory, "effects"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	run := func(ctx context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
		fmt.Fprintf(effects, "%s/%s attempt=%d continued=%t\n", a.RunID, a.Stage.ID, a.Number, a.Continued)
		fmt.Fprintf(a.Stdout, "output of %s\n", a.Stage.ID)
		if a.Stage.ID == "block" && !a.Continued && a.Number == 1 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		select {
		case <-time.After(rand.N(3 * time.Millisecond)):
			return pipeline.Outputs{"n": fmt.Sprint(a.Number)}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	e, err := New(Options{
		Journal: j, Worker: "child", LeaseTTL: 3 * time.Second, Backoff: Backoff{Base: time.Millisecond, Max: time.Millisecond},
		Kinds: map[pipeline.KindName]pipeline.Kind{
			pipeline.KindRun:    kind{run: run},
			pipeline.KindDeploy: kind{run: run, takeover: pipeline.TakeoverContinue},
		},
	})
	if err != nil {
		return err
	}
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			if _, err := e.Submit(ctx, lines.Text(), crashPlan(lines.Text())); err != nil {
				return
			}
			fmt.Println(lines.Text())
		}
	}()
	if err := e.Serve(ctx); err != nil {
		return err
	}
	return j.Close()
}

// crashPlan has a chain and a fan, of kinds that repeat and that continue.
// Runs whose id says so hold a stage that blocks in its first attempt.
func crashPlan(id string) *pipeline.Plan {
	var stages []pipeline.PlannedStage
	add := func(id string, kind pipeline.KindName, needs ...string) {
		s := pipeline.PlannedStage{ID: id, Kind: kind, Needs: needs, Retry: pipeline.Retry{Max: 1000}}
		if kind == pipeline.KindDeploy {
			s.Deploy = &pipeline.DeploySpec{Environment: "production"}
		}
		stages = append(stages, s)
	}
	if blocking, ok := strings.CutPrefix(id, "block-"); ok {
		add("first", pipeline.KindRun)
		add("block", pipeline.KindName(blocking), "first")
		add("last", pipeline.KindRun, "block")
		return planOf(stages...)
	}
	add("start", pipeline.KindRun)
	for i := range 4 {
		add(fmt.Sprint("fan", i), pipeline.KindRun, "start")
	}
	add("deploy1", pipeline.KindDeploy, "fan0", "fan1", "fan2", "fan3")
	add("check", pipeline.KindRun, "deploy1")
	add("deploy2", pipeline.KindDeploy, "check")
	return planOf(stages...)
}

type worker struct {
	t       *testing.T
	cmd     *exec.Cmd
	submit  func(id string)
	confirm *bufio.Scanner
}

func startWorker(t *testing.T, directory string) *worker {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDirectory+"="+directory)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	w := &worker{t: t, cmd: cmd, confirm: bufio.NewScanner(out)}
	w.submit = func(id string) { _, _ = fmt.Fprintln(in, id) } // it may be dead already
	t.Cleanup(func() { w.end(syscall.SIGKILL) })
	return w
}

func (w *worker) end(signal syscall.Signal) {
	if w.cmd.ProcessState != nil {
		return
	}
	_ = w.cmd.Process.Signal(signal)
	err := w.cmd.Wait()
	if signal == syscall.SIGTERM {
		require.NoError(w.t, err, "an orderly stop")
	}
}

// awaitForeign waits for a run that another process drives; it cannot be
// watched from here, so the journal is read again and again.
func awaitForeign(t *testing.T, j journal.Journal, id string, ok func(*journal.State) bool) journal.State {
	t.Helper()
	var state journal.State
	require.Eventually(t, func() bool {
		entries, err := j.Entries(context.Background(), id, 0)
		if err != nil {
			return false
		}
		state = journal.Fold(entries)
		return ok(&state)
	}, time.Minute, 2*time.Millisecond, "run %s", id)
	return state
}

func effectsOf(t *testing.T, directory string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(directory, "effects"))
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// Workers are killed at random moments. No confirmed run is lost, no stage
// whose end is recorded runs again, and all ends well.
func TestKillAtRandomMoments(t *testing.T) {
	directory := t.TempDir()
	j, err := sqlite.Open(context.Background(), filepath.Join(directory, "journal.db"), sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, j.Close()) })
	var confirmed []string
	const lives = 10
	for life := range lives {
		finished, seen := finishedStages(t, j), len(effectsOf(t, directory))
		w := startWorker(t, directory)
		for i := range 3 {
			w.submit(fmt.Sprintf("r%d-%d", life, i))
		}
		// Die some way after the first confirmation, wherever that is.
		if w.confirm.Scan() {
			confirmed = append(confirmed, w.confirm.Text())
		}
		time.Sleep(rand.N(60 * time.Millisecond)) //nolint:forbidigo // the random moment is what is tested
		require.NoError(t, w.cmd.Process.Kill())
		for w.confirm.Scan() {
			confirmed = append(confirmed, w.confirm.Text())
		}
		w.end(syscall.SIGKILL)
		for _, effect := range effectsOf(t, directory)[seen:] {
			stage, _, _ := strings.Cut(effect, " ")
			require.False(t, finished[stage], "life %d repeated a finished stage: %s", life, effect)
		}
	}
	require.NotEmpty(t, confirmed)
	finished, seen := finishedStages(t, j), len(effectsOf(t, directory))
	w := startWorker(t, directory)
	for _, id := range confirmed {
		state := awaitForeign(t, j, id, final)
		require.Equal(t, journal.Succeeded, state.Status, "%s: %s", id, state.Message)
		for _, stage := range state.Stages {
			require.Equal(t, journal.Succeeded, stage.Status)
			if stage.Kind == pipeline.KindDeploy {
				require.Len(t, stage.Attempts, 1, "%s/%s continues its attempt", id, stage.ID)
			}
		}
	}
	w.end(syscall.SIGTERM)
	for _, effect := range effectsOf(t, directory)[seen:] {
		stage, _, _ := strings.Cut(effect, " ")
		require.False(t, finished[stage], "repeated a finished stage: %s", effect)
	}
	t.Logf("%d lives, %d runs confirmed, %d attempts", lives+1, len(confirmed), len(effectsOf(t, directory)))
}

func finishedStages(t *testing.T, j journal.Journal) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	runs, err := j.List(context.Background(), journal.Filter{Limit: 1000})
	require.NoError(t, err)
	for _, run := range runs {
		entries, err := j.Entries(context.Background(), run.ID, 0)
		require.NoError(t, err)
		for _, e := range entries {
			if e.Type == journal.StageFinished {
				require.False(t, out[run.ID+"/"+e.Stage], "%s/%s ended twice", run.ID, e.Stage)
				out[run.ID+"/"+e.Stage] = true
			}
		}
	}
	return out
}

// A worker dies, or is stopped, in the middle of a stage. The next goes on as
// the kind says.
func TestTakeover(t *testing.T) {
	for name, c := range map[string]struct {
		run      string
		signal   syscall.Signal
		attempts []string
	}{
		"killed, retried":    {"block-run", syscall.SIGKILL, []string{"attempt=1 continued=false", "attempt=2 continued=false"}},
		"killed, continued":  {"block-deploy", syscall.SIGKILL, []string{"attempt=1 continued=false", "attempt=1 continued=true"}},
		"stopped, retried":   {"block-run", syscall.SIGTERM, []string{"attempt=1 continued=false", "attempt=2 continued=false"}},
		"stopped, continued": {"block-deploy", syscall.SIGTERM, []string{"attempt=1 continued=false", "attempt=1 continued=true"}},
	} {
		t.Run(name, func(t *testing.T) {
			directory := t.TempDir()
			j, err := sqlite.Open(context.Background(), filepath.Join(directory, "journal.db"), sqlite.Options{})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, j.Close()) })
			w := startWorker(t, directory)
			w.submit(c.run)
			require.True(t, w.confirm.Scan())
			awaitForeign(t, j, c.run, func(s *journal.State) bool {
				return s.Stage("block").Open() && len(effectsOf(t, directory)) == 2
			})
			w.end(c.signal)
			entries, err := j.Entries(context.Background(), c.run, 0)
			require.NoError(t, err)
			state := journal.Fold(entries)
			require.Equal(t, journal.Running, state.Status, "a stopped worker cancels no run")
			require.Equal(t, c.signal == syscall.SIGTERM, state.Stage("block").Last().Interrupted)

			w = startWorker(t, directory)
			state = awaitForeign(t, j, c.run, final)
			require.Equal(t, journal.Succeeded, state.Status, state.Message)
			require.Equal(t, 1, state.Takeovers)
			w.end(syscall.SIGTERM)
			var got []string
			for _, effect := range effectsOf(t, directory) {
				if attempt, ok := strings.CutPrefix(effect, c.run+"/block "); ok {
					got = append(got, attempt)
				} else {
					require.Contains(t, effect, "attempt=1 continued=false", "finished stages are not repeated")
				}
			}
			require.Equal(t, c.attempts, got)
			lines, err := j.Log(context.Background(), c.run, "first", 0, 0)
			require.NoError(t, err)
			require.Len(t, lines, 1)
		})
	}
}

// A worker of another name waits for the dead one's lease to run out.
func TestAnotherWorkerTakesOver(t *testing.T) {
	directory := t.TempDir()
	j, err := sqlite.Open(context.Background(), filepath.Join(directory, "journal.db"), sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, j.Close()) })
	w := startWorker(t, directory)
	w.submit("block-run")
	require.True(t, w.confirm.Scan())
	awaitForeign(t, j, "block-run", func(s *journal.State) bool { return s.Stage("block").Open() })
	w.end(syscall.SIGKILL)
	var ran []string
	e := newEngine(t, j, func(_ context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
		ran = append(ran, a.Stage.ID)
		return nil, nil
	}, func(o *Options) { o.Worker = "other"; o.LeaseTTL = 300 * time.Millisecond })
	stop := serve(t, e)
	state := await(t, j, "block-run", final)
	stop()
	require.Equal(t, journal.Succeeded, state.Status, state.Message)
	require.Equal(t, "other", state.Worker)
	require.Equal(t, []string{"block", "last"}, ran)
}
