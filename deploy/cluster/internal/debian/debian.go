// Package debian installs what is missing on Debian, Ubuntu and their kin, or
// says how to get it.
package debian

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/machine"
)

// Packages returns the packages that bring tools, each once, sorted.
func Packages(tools []machine.Tool) []string {
	var packages []string
	for _, t := range tools {
		packages = append(packages, t.Package)
	}
	slices.Sort(packages)
	return slices.Compact(packages)
}

// MissingError says which tools are missing and how to get them.
type MissingError struct {
	Tools []machine.Tool
	// Reason says why they were not installed.
	Reason string
}

func (e *MissingError) Error() string {
	var names []string
	for _, t := range e.Tools {
		names = append(names, t.Name)
	}
	return fmt.Sprintf("missing on this machine: %s; not installed because %s.\nOn Debian and Ubuntu get them by:\n\n    apt-get install %s\n\nElsewhere install containerd, runc, the CNI network plugins (in /opt/cni/bin) and iptables",
		strings.Join(names, ", "), e.Reason, strings.Join(Packages(e.Tools), " "))
}

// Ensure installs the packages of tools that are missing if allowed and able to.
// progress gets a line for each step of the installation. The error is a
// *MissingError if tools are missing and nothing could be done about it.
func Ensure(ctx context.Context, tools []machine.Tool, allowed bool, progress func(string)) error {
	missing := machine.Missing(tools)
	if len(missing) == 0 {
		return nil
	}
	if reason := hindrance(allowed, os.Geteuid()); reason != "" {
		return &MissingError{Tools: missing, Reason: reason}
	}
	packages := Packages(missing)
	progress("installing Debian packages: " + strings.Join(packages, " "))
	if err := install(ctx, packages, progress); err != nil {
		// The package lists of a fresh image are empty or old.
		progress("updating the package lists (" + err.Error() + ")")
		if err := aptGet(ctx, progress, "update", "-q"); err != nil {
			return &MissingError{Tools: missing, Reason: err.Error()}
		}
		if err := install(ctx, packages, progress); err != nil {
			return &MissingError{Tools: missing, Reason: err.Error()}
		}
	}
	if missing = machine.Missing(tools); len(missing) > 0 {
		return &MissingError{Tools: missing, Reason: "apt-get succeeded but did not bring them"}
	}
	return nil
}

func hindrance(allowed bool, euid int) string {
	if !allowed {
		return "--no-install is set"
	}
	if euid != 0 {
		return "only root may install packages"
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "there is no apt-get here"
	}
	return ""
}

func install(ctx context.Context, packages []string, progress func(string)) error {
	return aptGet(ctx, progress, append([]string{"install", "-q", "-y", "--no-install-recommends"}, packages...)...)
}

// waitDelay is how long apt-get may go on after a cancellation.
const waitDelay = 10 * time.Second

func aptGet(ctx context.Context, progress func(string), args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	// An interrupted dpkg leaves the machine in need of repair; ask first.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = waitDelay
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("apt-get %s: %w", args[0], err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("apt-get %s: %w", args[0], err)
	}
	last := relay(stdout, progress)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", args[0], err, last)
	}
	return nil
}

// relay passes on the lines that show progress and returns the last error, or
// else the last line.
func relay(r io.Reader, progress func(string)) (last string) {
	lines := bufio.NewScanner(r)
	var failure string
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		last = line
		if strings.HasPrefix(line, "E: ") {
			failure = line
		}
		for _, prefix := range []string{"Get:", "Unpacking ", "Setting up "} {
			if strings.HasPrefix(line, prefix) {
				progress("  " + line)
			}
		}
	}
	if failure != "" {
		return failure
	}
	return last
}
