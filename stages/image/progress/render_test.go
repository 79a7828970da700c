package progress

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/internal/termtext"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var began = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// story is a build with all kinds of event, some of them hostile.
func story() []Event {
	at := func(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }
	return []Event{
		{Time: at(0), Kind: Begin, Version: Version},
		{Time: at(0), Kind: Start, Step: "image golang:1.26", Text: "resolve golang:1.26"},
		{Time: at(0.2), Kind: Done, Step: "image golang:1.26", Digest: "sha256:aa", Duration: 200 * time.Millisecond},
		{Time: at(0.2), Kind: Warning, Text: "StageNameCasing: stage name should be lowercase", Position: "Dockerfile:1:1"},
		{Time: at(0.3), Kind: Start, Step: "build 1/3", Text: "WORKDIR /src", Position: "Dockerfile:2:1"},
		{Time: at(0.3), Kind: Cached, Step: "build 1/3", Bytes: 90, Digest: "sha256:bb"},
		{Time: at(0.3), Kind: Start, Step: "fetch 0123456789ab", Text: "fetch layer 0123456789ab of docker.io/library/golang", Total: 80_000_000},
		{Time: at(0.4), Kind: Start, Step: "build 2/3", Text: "RUN make \x1b]0;owned\x07everything with a command line that is far too long for most terminals", Position: "Dockerfile:3:1"},
		{Time: at(0.5), Kind: Log, Step: "build 2/3", Text: "\x1b[2J\x1b[31mcompiling\x1b[0m\tmain", Stream: "stdout"},
		{Time: at(0.6), Kind: Log, Step: "build 2/3", Text: "10%\r55%\r100%", Stream: "stderr"},
		{Time: at(0.6), Kind: Log, Step: "build 2/3", Text: "日本語 \u202eevil\u202c", Stream: "stdout"},
		{Time: at(1.6), Kind: Moved, Step: "fetch 0123456789ab", Bytes: 20_000_000, Total: 80_000_000},
		{Time: at(2.6), Kind: Done, Step: "fetch 0123456789ab", Bytes: 80_000_000, Duration: 2300 * time.Millisecond},
		{Time: at(2.6), Kind: Again, Step: "build 3/3", Text: "the cache r/c does not hold layer sha256:cc", Duration: time.Second},
		{Time: at(3), Kind: Failed, Step: "build 2/3", Text: "the command failed: exit status 2", Duration: 2600 * time.Millisecond},
		{Time: at(95), Kind: Result, Text: "built sha256:dd: 1 steps made, 1 cached", Digest: "sha256:dd"},
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestPlainAndJSON(t *testing.T) {
	var plain, stream, quiet bytes.Buffer
	for name, r := range map[string]Renderer{"plain": Plain(&plain), "json": JSON(&stream), "quiet": Quiet()} {
		for _, e := range story() {
			r.Event(e)
		}
		r.Close()
		_ = name
	}
	golden(t, "plain.txt", plain.String())
	golden(t, "stream.json", stream.String())
	require.Empty(t, quiet.String())
	for line := range strings.Lines(plain.String()) {
		require.Equal(t, termtext.Clean(line), strings.TrimSuffix(line, "\n"))
	}
	// What is read back is what was told.
	decoder := json.NewDecoder(&stream)
	for _, want := range story() {
		var got Event
		require.NoError(t, decoder.Decode(&got))
		require.Equal(t, want, got)
	}
}

// display shows the story at a terminal, every event followed by a redraw.
func display(width int, color bool) (string, *ttyRenderer) {
	var out bytes.Buffer
	now := began
	r := TTY(&out, Terminal{Width: func() int { return width }, Color: color, Now: func() time.Time { return now }, Frames: make(chan time.Time)}).(*ttyRenderer)
	for _, e := range story() {
		now = e.Time
		r.Event(e)
		r.mu.Lock()
		r.draw(nil)
		r.mu.Unlock()
	}
	r.Close()
	return out.String(), r
}

func TestTerminal(t *testing.T) {
	for name, c := range map[string]struct {
		width int
		color bool
	}{"tty-100.txt": {100, true}, "tty-60-nocolor.txt": {60, false}, "tty-12-nocolor.txt": {12, false}} {
		t.Run(name, func(t *testing.T) {
			shown, _ := display(c.width, c.color)
			golden(t, name, shown)
			if !c.color {
				require.NotRegexp(t, `\x1b\[[0-9;]*m`, shown)
			}
			require.NotContains(t, shown, "owned")
			require.NotContains(t, shown, "\x1b[2J")
		})
	}
}

func TestTheMovingPartNeverWraps(t *testing.T) {
	for _, width := range []int{1, 20, 33, 60, 80, 200} {
		r := &ttyRenderer{terminal: Terminal{Width: func() int { return width }, Now: func() time.Time { return began.Add(time.Hour) }}, began: began}
		for i := range 12 {
			r.running = append(r.running, &ttyStep{
				id: "stage", text: strings.Repeat("日本 ", i*5), start: began, bytes: 5, total: 10, log: []string{strings.Repeat("x\t", 100)},
			})
		}
		usable := max(width, ttyNarrow) - 1
		for _, line := range r.moving(usable) {
			require.LessOrEqual(t, termtext.Width(line), usable, "%q", line)
		}
		require.Contains(t, strings.Join(r.moving(usable), "\n"), "and 4 more")
	}
}

func TestWhatComesAfterTheEndIsStillShown(t *testing.T) {
	var out bytes.Buffer
	r := TTY(&out, Terminal{Width: func() int { return 80 }, Now: func() time.Time { return began }})
	r.Close()
	r.Close()
	before := out.Len()
	r.Event(Event{Kind: Start, Step: "s", Text: "t"})
	r.Event(Event{Kind: Failed, Step: "s", Text: "t"})
	require.NotContains(t, out.String()[before:], "\x1b[J", "the display has ended: nothing moves any more")
	require.Contains(t, out.String()[before:], "[s] t")
}
