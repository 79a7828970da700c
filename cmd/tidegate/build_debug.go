package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/tidegate-ci/tidegate/stages/image"
)

// buildDebugFlags open a shell where a build failed.
type buildDebugFlags struct{ debug string }

// debugAuto looks for a shell in the image.
const debugAuto = "auto"

func (f *buildDebugFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.debug, "debug", "", "open a shell in the filesystem of a RUN that fails, or a program of the image: --debug=/bin/zsh")
	flags.Lookup("debug").NoOptDefVal = debugAuto
}

// prepare sets the request up. Pause is called before a shell opens.
func (f *buildDebugFlags) prepare(r *image.Request, in io.Reader, out io.Writer, pause func()) error {
	if f.debug == "" {
		return nil
	}
	program := f.debug
	if program != debugAuto && !path.IsAbs(program) {
		return usageErrorf("--debug=%s: want the absolute path of a program of the image", program)
	}
	terminal, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(terminal.Fd())) {
		return usageErrorf("--debug opens a shell where a step failed, and needs a terminal for that: standard input is none")
	}
	r.Debug = func(ctx context.Context, step image.FailedStep) {
		pause()
		say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
		say("\n%v\n", step.Err)
		args := []string{program}
		if program == debugAuto {
			if step.Shell == "" {
				say("no shell can be opened: the step's filesystem has none; name a program of it with --debug=/path/to/program")
				return
			}
			args = image.ShellCommand(step.Shell)
		} else if err := step.Has(program); err != nil {
			say("--debug=%s cannot be opened: %v", program, err)
			return
		}
		say("%s in the filesystem of the failed step, with its environment and mounts; its end ends the build", strings.Join(args, " "))
		// The runtime sets the terminal to raw and back; a killed one does not.
		if state, err := term.GetState(int(terminal.Fd())); err == nil {
			defer func() { _ = term.Restore(int(terminal.Fd()), state) }() // it was so before
		}
		if err := step.Open(ctx, terminal, args); err != nil {
			say("%s: %v", args[0], err)
		}
	}
	return nil
}
