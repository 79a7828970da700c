package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

// proven is prove, unless a container ran here before and all that it depended
// on is as it was then: trying takes as long as a short step does, and every
// build is a process of its own.
func (r *Runtime) proven(ctx context.Context) error {
	now := r.circumstances()
	record := filepath.Join(r.dir, "proven-"+filepath.Base(r.command))
	if before, err := os.ReadFile(record); err == nil && now != "" && string(before) == now {
		return nil
	}
	if err := r.prove(ctx); err != nil {
		return errors.Join(err, discard(record))
	}
	// A record that can't be kept, or half of one, means one more trial.
	if err := os.WriteFile(record, []byte(now), 0o600); err != nil {
		r.log.Debug("keep that the OCI runtime works", zap.Error(err))
	}
	return nil
}

func discard(record string) error {
	if err := os.Remove(record); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// circumstances are what it depends on whether the runtime works: which program
// it is, since when the machine runs, and who starts it. It is empty when they
// can't be told.
func (r *Runtime) circumstances() string {
	var program unix.Stat_t
	if err := unix.Stat(r.command, &program); err != nil {
		return ""
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s %d:%d %d bytes, changed %d\nboot %s\nusers %+v\ncgroups %+v\n",
		r.command, program.Dev, program.Ino, program.Size, program.Ctim.Nano(), strings.TrimSpace(string(boot)), r.users, r.controllers)
}

// prove runs the smallest container there is.
func (r *Runtime) prove(ctx context.Context) error {
	program, ok := exitProgram()
	if !ok {
		return nil // no such program for this processor; the first stage will tell
	}
	root, err := os.MkdirTemp(r.dir, "prove-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	if err := os.Chmod(root, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "exit"), program, 0o755); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, proveTimeout)
	defer cancel()
	var output boundedBuffer
	err = r.Run(ctx, root, sandbox.Command{Args: []string{"/exit"}, Dir: "/", Stdout: &output, Stderr: &output}, Limits{})
	if err != nil && output.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(output.String()))
	}
	return err
}
