// Package confined runs a piece of this program in a process of its own: one that
// handles what strangers wrote with a library that may loop, eat memory or panic.
// That process has limits of the kernel, no environment, and an HTTP transport that
// refuses.
package confined

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Bounds end the other process.
type Bounds struct {
	// Time is by the clock.
	Time time.Duration `json:"-"`
	// CPU is seconds of processor time, Memory bytes of data.
	CPU    uint64 `json:"cpu"`
	Memory uint64 `json:"memory"`
	// Output is bytes of the answer.
	Output int `json:"-"`
}

// Part is a piece of the program. Requests and answers travel as JSON.
type Part[Request, Answer any] struct {
	// Name is what the process is called, and by what it knows what it is for.
	Name   string
	Bounds Bounds
	// Serve runs in the other process. What it prints is not part of the answer.
	Serve func(Request) Answer
}

// What an error of Ask is, beside the end of its context.
var (
	ErrTime   = errors.New("too much time")
	ErrOutput = errors.New("too much output")
)

// Bounds of what is not the part's own.
const (
	maxRequest = 8 << 20 // bytes
	maxTrouble = 4 << 10 // bytes of what the process says when it fails
)

type envelope[Request any] struct {
	Bounds  Bounds  `json:"bounds"`
	Request Request `json:"request"`
}

// Main is called in an init function, so that whichever program this is, a
// server, a command or a test, nothing else of it runs: where the process was
// started as this part it serves the request and ends here. Elsewhere it does nothing.
func (p *Part[Request, Answer]) Main() {
	if len(os.Args) != 1 || os.Args[0] != p.Name {
		return
	}
	if err := p.answer(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (p *Part[Request, Answer]) answer(in io.Reader, out io.Writer) error {
	// A library that prints would break the answer.
	os.Stdout = os.Stderr
	// Nothing is fetched: what would be refused already is stopped here as well.
	http.DefaultTransport = refuseAll{}
	var asked envelope[Request]
	if err := json.NewDecoder(io.LimitReader(in, maxRequest)).Decode(&asked); err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	if err := asked.Bounds.confine(); err != nil {
		return fmt.Errorf("bounding the process: %w", err)
	}
	return json.NewEncoder(out).Encode(p.Serve(asked.Request))
}

// Ask starts the program again as this part and waits for its end. An error is
// the context's, or says what bound was met, or how the process failed.
func (p *Part[Request, Answer]) Ask(ctx context.Context, request Request) (answer Answer, err error) {
	asked, err := json.Marshal(envelope[Request]{p.Bounds, request})
	if err != nil {
		return answer, fmt.Errorf("writing the request: %w", err)
	}
	bounded, cancel := context.WithTimeout(ctx, p.Bounds.Time)
	defer cancel()
	command := exec.CommandContext(bounded, "/proc/self/exe")
	command.Args = []string{p.Name}
	command.Env = []string{"HOME=/nonexistent", "PATH=/nonexistent", "GOTRACEBACK=none"}
	command.Stdin = bytes.NewReader(asked)
	out, said := &capped{most: p.Bounds.Output}, &capped{most: maxTrouble}
	command.Stdout, command.Stderr = out, said
	err = command.Run()
	switch {
	case ctx.Err() != nil:
		return answer, context.Cause(ctx)
	case bounded.Err() != nil:
		return answer, fmt.Errorf("%w: longer than %s", ErrTime, p.Bounds.Time)
	case out.over:
		return answer, fmt.Errorf("%w: more than %d bytes", ErrOutput, p.Bounds.Output)
	case err != nil:
		return answer, fmt.Errorf("needed more than %d s of processor time or %d MiB of memory, or failed: %w: %s",
			p.Bounds.CPU, p.Bounds.Memory>>20, err, firstLine(said.kept.String()))
	}
	if err := json.Unmarshal(out.kept.Bytes(), &answer); err != nil {
		return answer, fmt.Errorf("reading the answer: %w", err)
	}
	return answer, nil
}

// refuseAll is a transport to nowhere.
type refuseAll struct{}

func (refuseAll) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, fmt.Errorf("%s is not fetched: keep it in the repository", r.URL.Redacted())
}

// capped keeps the beginning of what is written and takes the rest. The buffer is
// not embedded: io.Copy would find its ReadFrom, which knows no bound.
type capped struct {
	kept bytes.Buffer
	most int
	over bool
}

func (c *capped) Write(p []byte) (int, error) {
	if room := c.most - c.kept.Len(); len(p) > room {
		c.over = true
		c.kept.Write(p[:max(room, 0)])
		return len(p), nil
	}
	return c.kept.Write(p)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
