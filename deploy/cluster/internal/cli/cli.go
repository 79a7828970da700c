// Package cli is the command line of tidegate-cluster.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/cluster"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

// Exit codes of every command.
const (
	exitSuccess = 0
	exitFailed  = 1 // the work failed, or the cluster is not healthy
	exitUsage   = 2 // wrong use
)

// errUsage marks wrong use.
var errUsage = errors.New("wrong use")

// errSilent is a failure that the command has already told about.
var errSilent = errors.New("failed")

// Run runs the command that args name and returns the exit code.
func Run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitSuccess
	}
	if !errors.Is(err, errSilent) {
		fmt.Fprintln(os.Stderr, "tidegate-cluster: "+err.Error())
	}
	if errors.Is(err, errUsage) {
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "tidegate-cluster",
		Short: "A real one-node Kubernetes on this machine",
		Long: `tidegate-cluster runs etcd, the Kubernetes components, containerd and a bridge
network on this machine: pods run real containers, Services balance, probes
count. It is made for development and tests.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	var state string
	root.PersistentFlags().StringVar(&state, "state", "", "folder that holds the cluster (default .cluster at the root of the Git repository)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.AddCommand(
		newUp(&state),
		newDown(&state),
		newStatus(&state),
		newKubeconfig(&state),
		newComponent(&state),
		newVersion(),
	)
	argumentErrorsAreUsage(root)
	return root
}

// argumentErrorsAreUsage makes wrong arguments count as wrong use, as wrong
// flags do.
func argumentErrorsAreUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usage(err)
			}
			return nil
		}
	}
	for _, child := range cmd.Commands() {
		argumentErrorsAreUsage(child)
	}
}

func usage(err error) error { return fmt.Errorf("%w: %w", errUsage, err) }

// open returns the cluster in the state folder with the settings it was made
// with, or the default ones.
func open(cmd *cobra.Command, state string) (*cluster.Cluster, bool, error) {
	dir, err := stateDir(state)
	if err != nil {
		return nil, false, err
	}
	s, found, err := settings.Load(dir)
	if err != nil {
		return nil, false, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, false, fmt.Errorf("find this program's own file: %w", err)
	}
	return &cluster.Cluster{Settings: s, Self: self, Say: progress(cmd.ErrOrStderr(), time.Now())}, found, nil
}

// progress writes lines with the seconds since started in front.
func progress(w io.Writer, started time.Time) func(string, ...any) {
	dim, plain := "", ""
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		dim, plain = "\x1b[2m", "\x1b[0m"
	}
	return func(format string, args ...any) {
		fmt.Fprintf(w, "%s%6.1fs%s  %s\n", dim, time.Since(started).Seconds(), plain, fmt.Sprintf(format, args...))
	}
}

// stateDir makes the folder absolute and free of symbolic links, as the kernel
// will name it; "" means .cluster at the root of the Git repository around the
// working directory, or in the working directory itself.
func stateDir(flag string) (string, error) {
	if flag != "" {
		dir, err := filepath.Abs(flag)
		if err == nil {
			dir, err = resolve(dir)
		}
		if err != nil {
			return "", fmt.Errorf("--state %s: %w", flag, err)
		}
		return dir, nil
	}
	here, err := os.Getwd()
	if err == nil {
		here, err = resolve(here)
	}
	if err != nil {
		return "", fmt.Errorf("find the state folder: %w", err)
	}
	for dir := here; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, ".git")); err == nil {
			return resolve(filepath.Join(dir, ".cluster"))
		}
		if dir == filepath.Dir(dir) {
			return resolve(filepath.Join(here, ".cluster"))
		}
	}
}

// resolve follows symbolic links in as much of the absolute path as exists.
func resolve(path string) (string, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
		return resolved, err
	}
	parent, err := resolve(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}
