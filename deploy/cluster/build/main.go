// Command build compiles tidegate-cluster. Compiling Kubernetes from an empty
// cache takes minutes, so it shows how far it is:
//
//	go run ./build -o ../../.bin/tidegate-cluster
//
// It needs no C compiler.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

const pauseProgram = "internal/sandboximage/built/pause"

func main() {
	out := flag.String("o", "tidegate-cluster", "file to write")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *out); err != nil {
		fmt.Fprintln(os.Stderr, "build tidegate-cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	dir, err := output(ctx, "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	// The sandbox image is embedded, so its program comes first.
	if err := goBuild(ctx, quiet{}, "-ldflags=-s -w", "-o", pauseProgram, "./internal/sandboximage/pause"); err != nil {
		return err
	}
	version, err := output(ctx, "go", "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	if err != nil {
		return err
	}
	flags, err := versionFlags(version)
	if err != nil {
		return err
	}
	packages, err := output(ctx, "go", "list", "-deps", "-f", "{{.ImportPath}}", ".")
	if err != nil {
		return err
	}
	tty := term.IsTerminal(int(os.Stderr.Fd()))
	progress := newProgress(os.Stderr, tty, strings.Fields(packages), time.Now)
	if err := goBuild(ctx, progress, "-v", "-ldflags="+flags, "-o", out, "."); err != nil {
		return err
	}
	progress.done(out)
	return nil
}

// versionFlags tells the components their version, which they would not know
// otherwise.
func versionFlags(version string) (string, error) {
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	if len(parts) < 3 {
		return "", fmt.Errorf("version %q of k8s.io/kubernetes is not of the form v1.2.3", version)
	}
	const variable = "k8s.io/component-base/version."
	return fmt.Sprintf("-s -w -X %sgitVersion=%s -X %sgitMajor=%s -X %sgitMinor=%s", variable, version, variable, parts[0], variable, parts[1]), nil
}

func environment() []string { return append(os.Environ(), "CGO_ENABLED=0") }

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = environment()
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
