package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

// FailedStep is a RUN that failed, with its filesystem as it was left.
type FailedStep struct {
	// Err is the failure with its place, excerpt and output.
	Err error
	// Shell is a shell of the image, empty if it has none of the usual ones.
	Shell string

	command sandbox.Command
	root    string
	run     func(ctx context.Context, command sandbox.Command) error
}

// shells are looked for in this order.
var shells = []string{"/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh", "/bin/ash", "/bin/busybox"}

// Open runs a program of the image at a terminal, as the step's user, in its
// directory, with its environment, mounts and network. It returns when the
// program ends; how it ended does not matter.
func (s FailedStep) Open(ctx context.Context, terminal *os.File, args []string) error {
	command := s.command
	command.Args, command.Terminal = args, terminal
	command.Stdin, command.Stdout, command.Stderr = nil, nil, nil
	env := map[string]string{"TERM": os.Getenv("TERM")}
	for name, value := range command.Env {
		env[name] = value
	}
	command.Env = env
	err := s.run(ctx, command)
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

// Has tells whether the image has a program of that path.
func (s FailedStep) Has(program string) error {
	tree, err := layer.OpenTree(s.root, true)
	if err != nil {
		return err
	}
	defer tree.Close()
	at, err := tree.Resolve(program)
	if err != nil {
		return fmt.Errorf("the step's filesystem has no %s", program)
	}
	info, err := tree.Lstat(at)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("%s is no program in the step's filesystem: %s", program, fs.FormatFileInfo(info))
	}
	return nil
}

// ShellCommand is the argument vector of a shell.
func ShellCommand(shell string) []string {
	if strings.HasSuffix(shell, "/busybox") {
		return []string{shell, "sh"}
	}
	return []string{shell}
}

// debug lets somebody look at a step that failed. One at a time: there is one
// terminal.
func (r *stepRun) debug(ctx context.Context, failure error, root string, command sandbox.Command, runner Runner) {
	if r.request.Debug == nil || ctx.Err() != nil {
		return
	}
	r.debugging.Lock()
	defer r.debugging.Unlock()
	step := FailedStep{
		Err: r.explain(failure), command: command, root: root,
		run: func(ctx context.Context, command sandbox.Command) error {
			return runner.Run(ctx, root, command, r.limits())
		},
	}
	for _, shell := range shells {
		if step.Has(shell) == nil {
			step.Shell = shell
			break
		}
	}
	r.request.Debug(ctx, step)
}
