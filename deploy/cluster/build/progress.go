package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// listener gets the lines that `go build` prints.
type listener interface{ line(string) }

// quiet passes on nothing but failures.
type quiet struct{}

func (quiet) line(string) {}

// maxKept bounds how much of a failed build's output is shown.
const maxKept = 200

// goBuild runs `go build` and hands its output on line by line. The error has
// the lines that were not names of packages.
func goBuild(ctx context.Context, l listener, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build"}, args...)...)
	cmd.Env = environment()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	var kept []string
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		text := lines.Text()
		l.line(text)
		// Names of packages hold no space; everything else may be why it failed.
		if strings.ContainsAny(text, " \t") && len(kept) < maxKept {
			kept = append(kept, text)
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, strings.Join(kept, "\n"))
	}
	return nil
}

// plainInterval is how often progress that is piped gets a line.
const plainInterval = 10 * time.Second

// progress counts compiled packages. On a terminal it draws a bar in place, in a
// pipe it prints a line now and then.
type progress struct {
	w        io.Writer
	tty      bool
	now      func() time.Time
	started  time.Time
	packages map[string]bool // true once compiled
	compiled int
	fetched  int
	last     time.Time
}

func newProgress(w io.Writer, tty bool, packages []string, now func() time.Time) *progress {
	p := &progress{w: w, tty: tty, now: now, started: now(), last: now(), packages: map[string]bool{}}
	for _, name := range packages {
		p.packages[name] = false
	}
	return p
}

func (p *progress) line(text string) {
	if strings.HasPrefix(text, "go: downloading ") {
		p.fetched++
		p.show(fmt.Sprintf("fetched %d modules", p.fetched))
		return
	}
	if done, known := p.packages[text]; !known || done {
		return
	}
	p.packages[text] = true
	p.compiled++
	p.show(fmt.Sprintf("compiled %d of at most %d packages", p.compiled, len(p.packages)))
}

const barWidth = 30

func (p *progress) show(what string) {
	now := p.now()
	elapsed := now.Sub(p.started).Round(time.Second)
	if p.tty {
		filled := barWidth * p.compiled / max(1, len(p.packages))
		fmt.Fprintf(p.w, "\r\x1b[K[%s%s] %s, %s", strings.Repeat("#", filled), strings.Repeat(".", barWidth-filled), what, elapsed)
		return
	}
	if now.Sub(p.last) >= plainInterval {
		p.last = now
		fmt.Fprintf(p.w, "%s, %s\n", what, elapsed)
	}
}

func (p *progress) done(out string) {
	if p.tty {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
	fmt.Fprintf(p.w, "built %s in %s: %d packages compiled, the others were up to date\n", out, p.now().Sub(p.started).Round(100*time.Millisecond), p.compiled)
}
