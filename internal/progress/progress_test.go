package progress

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/internal/termtext"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// step is an entry or a line at a time, in seconds after start.
type step struct {
	at    float64
	entry journal.Entry
	line  journal.Line
}

func at(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

func testPlan() *pipeline.Plan {
	race := func(value string) map[string]string { return map[string]string{"race": value} }
	return &pipeline.Plan{
		Pipeline: "shop",
		Event: event.Event{
			Repository: event.Repository{FullName: "octo/shop"}, Ref: "refs/heads/main",
			Commit: "0123456789abcdef0123456789abcdef01234567",
		},
		Stages: []pipeline.PlannedStage{
			{ID: "lint", Kind: pipeline.KindRun},
			{ID: "unit (race=true)", Kind: pipeline.KindRun, Matrix: race("true"), Pos: pipeline.Position{File: ".tidegate.yaml", Line: 12, Column: 3}},
			{ID: "docs", Kind: pipeline.KindRun},
			{ID: "unit (race=false)", Kind: pipeline.KindRun, Matrix: race("false")},
			{ID: "image", Kind: pipeline.KindBuild, Needs: []string{"unit (race=true)", "unit (race=false)"}},
			{ID: "production/approval", Kind: pipeline.KindApprove},
			{ID: "production", Kind: pipeline.KindDeploy},
		},
	}
}

// story is a run in which one part of a matrix fails twice, with hostile text.
func story() []step {
	entry := func(seconds float64, e journal.Entry) step { return step{at: seconds, entry: e} }
	line := func(seconds float64, stage string, attempt int, text string) step {
		return step{at: seconds, line: journal.Line{Stage: stage, Attempt: attempt, Stream: "stdout", Text: text}}
	}
	fail := pipeline.CauseFailed
	return []step{
		entry(0, journal.Entry{Type: journal.RunCreated, Plan: testPlan()}),
		entry(0.1, journal.Entry{Type: journal.RunStarted, Actor: "worker-1"}),
		entry(0.2, journal.Entry{Type: journal.AttemptStarted, Stage: "lint", Attempt: 1}),
		entry(0.2, journal.Entry{Type: journal.AttemptStarted, Stage: "unit (race=true)", Attempt: 1}),
		entry(0.2, journal.Entry{Type: journal.AttemptStarted, Stage: "unit (race=false)", Attempt: 1}),
		entry(0.2, journal.Entry{Type: journal.StageFinished, Stage: "docs", Status: journal.Skipped, Message: "when is false: changed(\"docs/**\")"}),
		line(0.5, "lint", 1, "\x1b[32mlooking\x1b[0m at 120 files"),
		line(0.9, "unit (race=true)", 1, "\x1b]0;owned\x07\x1b[2J\x1b[1;1Hok  \tshop/cart"),
		line(1.0, "unit (race=false)", 1, "10%\r20%\r30%"),
		entry(1.4, journal.Entry{Type: journal.AttemptFinished, Stage: "lint", Attempt: 1}),
		entry(1.4, journal.Entry{Type: journal.StageFinished, Stage: "lint", Status: journal.Succeeded}),
		line(1.5, "unit (race=true)", 1, "first try goes wrong"),
		entry(2.0, journal.Entry{Type: journal.AttemptFinished, Stage: "unit (race=true)", Attempt: 1, Cause: pipeline.CauseInfrastructure, Message: "the sandbox went away"}),
		entry(2.1, journal.Entry{Type: journal.AttemptStarted, Stage: "unit (race=true)", Attempt: 2}),
		line(2.5, "unit (race=true)", 2, "--- FAIL: TestCart (0.10s)"),
		line(2.6, "unit (race=true)", 2, "    cart_test.go:12: want 2, got \u202e3"),
		line(2.7, "unit (race=true)", 2, "FAIL"),
		entry(3.0, journal.Entry{Type: journal.AttemptFinished, Stage: "unit (race=true)", Attempt: 2, Cause: fail, Message: "exit status 1"}),
		entry(3.0, journal.Entry{Type: journal.StageFinished, Stage: "unit (race=true)", Status: journal.Failed, Cause: fail, Message: "exit status 1"}),
		entry(3.5, journal.Entry{Type: journal.AttemptFinished, Stage: "unit (race=false)", Attempt: 1}),
		entry(3.5, journal.Entry{Type: journal.StageFinished, Stage: "unit (race=false)", Status: journal.Succeeded}),
		entry(3.6, journal.Entry{Type: journal.StageFinished, Stage: "image", Status: journal.Skipped, Message: "unit (race=true) failed"}),
		entry(3.6, journal.Entry{Type: journal.StageFinished, Stage: "production/approval", Status: journal.Skipped, Message: "image was skipped"}),
		entry(3.6, journal.Entry{Type: journal.StageFinished, Stage: "production", Status: journal.Skipped, Message: "image was skipped"}),
		entry(3.7, journal.Entry{Type: journal.RunFinished, Status: journal.Failed, Cause: fail, Message: "1 stage failed"}),
	}
}

// tell feeds the steps up to a time.
func tell(r Renderer, steps []step, until float64) {
	entries, lines := int64(0), int64(0)
	for _, s := range steps {
		if s.at > until {
			return
		}
		if s.entry.Type != "" {
			entries++
			s.entry.RunID, s.entry.Seq, s.entry.Time = "01JTIDE", entries, at(s.at)
			r.Entry(s.entry)
		} else {
			lines++
			s.line.Seq, s.line.Time = lines, at(s.at)
			r.Line(s.line)
		}
	}
}

// fakeWorld is a clock and ticker of the test's own.
type fakeWorld struct {
	now           atomic.Pointer[time.Time]
	ticks         chan time.Time
	width, height int
	stopped       bool
}

func (f *fakeWorld) set(now time.Time) { f.now.Store(&now) }

// tick has the renderer draw, and returns when it has: the second tick is taken
// only after the first was dealt with.
func (f *fakeWorld) tick() {
	f.ticks <- start
	f.ticks <- start
}

func (f *fakeWorld) options() Options {
	return Options{
		Now: func() time.Time { return *f.now.Load() },
		Tick: func(time.Duration) (<-chan time.Time, func()) {
			return f.ticks, func() { f.stopped = true }
		},
		Size: func() (int, int) { return f.width, f.height },
	}
}

func newWorld(width, height int) *fakeWorld {
	f := &fakeWorld{ticks: make(chan time.Time), width: width, height: height}
	f.set(start)
	return f
}

func TestFrames(t *testing.T) {
	for name, c := range map[string]struct {
		until         float64
		width, height int
		look          style
	}{
		"begun":       {0.3, 80, 0, false},
		"running":     {1.2, 80, 0, false},
		"colour":      {1.2, 80, 0, true},
		"retry":       {2.55, 80, 0, false},
		"failed":      {9, 80, 0, false},
		"narrow":      {2.55, 30, 0, false},
		"very narrow": {2.55, 8, 0, false},
		"low":         {2.55, 80, 6, false},
		"very low":    {2.55, 80, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := &terminal{model: newModel(DefaultTail)}
			tell(m, story(), c.until)
			lines := m.model.frame(at(c.until), c.width, c.height, c.look)
			for _, line := range lines {
				require.LessOrEqual(t, termtext.Width(line), c.width, line)
			}
			if c.height > 0 {
				require.LessOrEqual(t, len(lines), c.height)
			}
			golden(t, "frame-"+strings.ReplaceAll(name, " ", "-")+".txt", strings.Join(lines, "\n")+"\n")
		})
	}
}

func TestPlain(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"plain":      func(*Options) {},
		"timestamps": func(o *Options) { o.Timestamps = true },
		"quiet":      func(o *Options) { o.Quiet, o.Tail = true, 2 },
	} {
		t.Run(name, func(t *testing.T) {
			world := newWorld(80, 24)
			options := world.options()
			change(&options)
			var b bytes.Buffer
			r := New(&b, Plain, options)
			tell(r, story(), 9)
			tell(r, story(), 2) // seen before
			require.NoError(t, r.Close())
			require.NoError(t, r.Close())
			golden(t, "plain-"+name+".txt", b.String())
		})
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	r := New(&b, JSON, Options{})
	tell(r, story()[1:8], 9)
	require.NoError(t, r.Close())
	golden(t, "stream.ndjson", b.String())
}

// TestTerminal runs the whole thing against a terminal that understands just
// what is needed, so that a wrong cursor movement shows.
func TestTerminal(t *testing.T) {
	world := newWorld(80, 24)
	vt := &vt{width: 80}
	vt.print("$ tidegate run\n")
	r := New(vt, TTY, world.options())
	for _, seconds := range []float64{0.3, 1.2, 2.55, 3.55} {
		world.set(at(seconds))
		tell(r, story(), seconds)
		world.tick()
		require.True(t, vt.hidesCursor())
	}
	tell(r, story(), 9)
	world.set(at(9))
	require.NoError(t, r.Close())
	require.NoError(t, r.Close())
	require.True(t, world.stopped)
	require.False(t, vt.hidesCursor(), "the cursor is given back")
	golden(t, "terminal.txt", vt.String())
}

// TestTerminalCancelled: closing in the middle gives the cursor back and says
// where things stood.
func TestTerminalCancelled(t *testing.T) {
	world := newWorld(60, 24)
	vt := &vt{width: 60}
	r := New(vt, TTY, world.options())
	tell(r, story(), 1.2)
	world.set(at(1.2))
	world.tick()
	require.NoError(t, r.Close())
	require.False(t, vt.hidesCursor())
	require.Contains(t, vt.String(), "shop still running after 1.1s")
}

func TestTerminalWithoutPlan(t *testing.T) {
	world := newWorld(60, 24)
	vt := &vt{width: 60}
	r := New(vt, TTY, world.options())
	world.tick()
	r.Line(journal.Line{Stage: "x", Text: "early"})
	require.NoError(t, r.Close())
	require.Empty(t, strings.TrimSpace(vt.String()))
}

// TestLinesBeforeThePlan: who feeds lines ahead of entries loses none.
func TestLinesBeforeThePlan(t *testing.T) {
	m := newModel(DefaultTail)
	m.line(journal.Line{Seq: 1, Stage: "lint", Attempt: 1, Text: "early"})
	for i := range 2 * maxEarly {
		m.line(journal.Line{Seq: int64(i + 2), Stage: strconv.Itoa(i), Attempt: 1, Text: "stranger"})
	}
	require.Len(t, m.logs, maxEarly)
	m.entry(journal.Entry{RunID: "r", Seq: 1, Type: journal.RunCreated, Plan: testPlan()})
	require.Len(t, m.logs, len(testPlan().Stages))
	require.Equal(t, []string{"early"}, m.logs["lint"].lines)
}

// TestResize: lines drawn wide take more rows once the terminal is narrow.
func TestResize(t *testing.T) {
	width := 40
	vt := &vt{width: width}
	screen := &Screen{W: vt, Size: func() (int, int) { return width, 24 }}
	vt.print("before\n")
	screen.Draw([]string{strings.Repeat("a", 39), "b"})
	width = 20
	vt.reflow(width)
	screen.Draw([]string{"c", "d"})
	require.NoError(t, screen.Close([]string{"end"}))
	require.Equal(t, "before\nend\n", vt.String())
}

func TestWriteError(t *testing.T) {
	for _, mode := range []Mode{TTY, Plain, JSON} {
		world := newWorld(80, 24)
		r := New(brokenPipe{}, mode, world.options())
		tell(r, story(), 9)
		require.ErrorIs(t, r.Close(), errBroken, mode)
	}
}

var errBroken = errors.New("broken pipe")

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errBroken }

// TestHostile: nothing that a run says gets a control character out.
func TestHostile(t *testing.T) {
	bad := "\x1b[2J\x1b]0;x\x07\x9b31m\u202e\x08\x00\r\nnext\x7f"
	plan := testPlan()
	plan.Pipeline, plan.Event.Ref, plan.Event.Commit, plan.Event.Repository.FullName = bad, "refs/heads/"+bad, bad, bad
	plan.Stages[0].ID = bad
	plan.Stages[0].Pos = pipeline.Position{File: bad, Line: 1}
	for i := range plan.Stages {
		plan.Stages[i].Matrix = nil
	}
	steps := []step{
		{entry: journal.Entry{Type: journal.RunCreated, Plan: plan}},
		{entry: journal.Entry{Type: journal.RunStarted, Actor: bad}},
		{entry: journal.Entry{Type: journal.AttemptStarted, Stage: bad, Attempt: 1}},
		{line: journal.Line{Stage: bad, Attempt: 1, Text: bad}},
		{line: journal.Line{Stage: "unknown" + bad, Attempt: 1, Text: bad}},
		{entry: journal.Entry{Type: journal.StageProgress, Stage: bad, Attempt: 1, Message: bad}},
		{entry: journal.Entry{Type: journal.CancelRequested, Actor: bad, Message: bad}},
		{entry: journal.Entry{Type: journal.DecisionMade, Stage: "production/approval", Decision: &pipeline.Decision{By: bad, Comment: bad}}},
		{entry: journal.Entry{Type: journal.AttemptFinished, Stage: bad, Attempt: 1, Cause: pipeline.Cause(bad), Message: bad}},
		{entry: journal.Entry{Type: journal.StageFinished, Stage: bad, Status: journal.Failed, Cause: pipeline.Cause(bad), Message: bad}},
		{entry: journal.Entry{Type: journal.RunFinished, Status: journal.Failed, Cause: pipeline.Cause(bad), Message: bad}},
	}
	for n := 1; n <= len(steps); n++ {
		m := &terminal{model: newModel(DefaultTail)}
		tell(m, steps[:n], 0)
		var b bytes.Buffer
		r := New(&b, Plain, Options{})
		tell(r, steps[:n], 0)
		require.NoError(t, r.Close())
		texts := append(m.model.frame(start, 300, 0, false), m.model.summary(start, false)...)
		texts = append(texts, strings.Split(b.String(), "\n")...)
		for _, text := range texts {
			for _, c := range text {
				require.False(t, unicode.IsControl(c) || c == '\u202e', "%q", text)
			}
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0.0s", 0: "0.0s", 1240 * time.Millisecond: "1.2s", 59940 * time.Millisecond: "59.9s",
		59960 * time.Millisecond: "1m00s", 245 * time.Second: "4m05s", 59*time.Minute + 59*time.Second + 600*time.Millisecond: "1h00m",
		2*time.Hour + 3*time.Minute: "2h03m",
	} {
		require.Equal(t, want, Duration(d), d)
	}
}

func TestDetect(t *testing.T) {
	env := func(values ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(values); i += 2 {
				if values[i] == name {
					return values[i+1]
				}
			}
			return ""
		}
	}
	mode, options := Detect(&bytes.Buffer{}, Auto, env())
	require.Equal(t, Plain, mode)
	require.False(t, options.Color)
	mode, _ = Detect(&bytes.Buffer{}, TTY, env())
	require.Equal(t, TTY, mode)
	_, err := ParseMode("fancy")
	require.ErrorContains(t, err, "auto, tty, plain, json")
}

// vt is as much of a terminal as the renderer needs; anything else it is sent
// ends up on the screen, where the golden file shows it.
type vt struct {
	mu           sync.Mutex
	width        int
	rows         []string
	row, col     int
	cursorHidden bool
}

func (v *vt) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.print(string(p))
	return len(p), nil
}

func (v *vt) hidesCursor() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.cursorHidden
}

func (v *vt) print(text string) {
	for text != "" {
		if rest, ok := strings.CutPrefix(text, "\x1b["); ok {
			end := strings.IndexFunc(rest, func(r rune) bool { return unicode.IsLetter(r) })
			v.control(rest[:end], rest[end])
			text = rest[end+1:]
			continue
		}
		r := []rune(text)[0]
		text = text[len(string(r)):]
		switch r {
		case '\n':
			v.row, v.col = v.row+1, 0
		case '\r':
			v.col = 0
		default:
			if v.col >= v.width {
				v.row, v.col = v.row+1, 0
			}
			line := []rune(termtext.Pad(v.line(v.row), v.col+1))
			line[v.col] = r
			v.rows[v.row] = string(line)
			v.col++
		}
	}
	v.line(v.row)
}

func (v *vt) line(n int) string {
	for len(v.rows) <= n {
		v.rows = append(v.rows, "")
	}
	return v.rows[n]
}

func (v *vt) control(argument string, command byte) {
	switch command {
	case 'A':
		n, _ := strconv.Atoi(argument)
		v.row = max(v.row-n, 0)
	case 'K':
		v.rows[v.row] = string([]rune(termtext.Pad(v.line(v.row), v.col))[:v.col])
	case 'J':
		v.control("", 'K')
		v.rows = v.rows[:v.row+1]
	case 'l', 'h':
		v.cursorHidden = command == 'l'
	}
}

func (v *vt) reflow(width int) {
	var rows []string
	for _, row := range v.rows[:len(v.rows)-1] {
		for len(row) > width {
			rows = append(rows, row[:width])
			row = row[width:]
		}
		rows = append(rows, row)
	}
	v.width, v.rows, v.row, v.col = width, append(rows, ""), len(rows), 0
}

func (v *vt) String() string {
	for i := range v.rows {
		v.rows[i] = strings.TrimRight(v.rows[i], " ")
	}
	return strings.Join(v.rows, "\n")
}
