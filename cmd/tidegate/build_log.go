package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/tidegate-ci/tidegate/stages/image"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/store"
)

// buildLogFlags say where the full log goes.
type buildLogFlags struct{ log string }

func (f *buildLogFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.log, "log", "", "write the full log to this file (default one below --cache-dir, named when a build fails)")
}

// buildLog is the full log of a build, whatever is shown of it.
type buildLog struct {
	path  string
	lines progress.Renderer
	flush func()
	close func() error
	// debugged says that a shell was asked for.
	debugged bool
}

func (f *buildLogFlags) open(kept *store.Store) (*buildLog, error) {
	if f.log != "" {
		file, err := os.Create(f.log)
		if err != nil {
			return nil, fmt.Errorf("--log: %w", err)
		}
		return &buildLog{path: f.log, lines: progress.Plain(file), flush: func() {}, close: file.Close}, nil
	}
	log, err := kept.OpenLog()
	if err != nil {
		return nil, err
	}
	return &buildLog{path: log.Path(), lines: progress.Plain(log), flush: log.Flush, close: log.Close}, nil
}

// record writes events to the log before they are shown.
func (l *buildLog) record(show progress.Sink) progress.Sink {
	return func(e progress.Event) {
		l.lines.Event(e)
		switch e.Kind {
		case progress.Done, progress.Failed, progress.Result:
			l.flush()
		}
		show(e)
	}
}

// finish ends the log and tells where it is when the build failed.
func (l *buildLog) finish(to io.Writer, failure error) {
	if failure != nil {
		for line := range strings.Lines(failure.Error()) {
			l.lines.Event(progress.Event{Kind: progress.Result, Text: line})
		}
	}
	if err := l.close(); err != nil {
		fmt.Fprintln(to, "tidegate: "+err.Error())
	}
	var step *image.StepError
	if errors.As(failure, &step) {
		fmt.Fprintln(to, "full log: "+l.path)
		if !l.debugged {
			fmt.Fprintln(to, "a shell where a RUN failed: add --debug")
		}
	}
}
