package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Record names a process that was started, in a way that survives the starter
// and never means another process that got the same id.
type Record struct {
	Name       string    `json:"name"`
	PID        int       `json:"pid"`
	StartTicks uint64    `json:"startTicks"`
	Boot       string    `json:"boot"`
	Started    time.Time `json:"started"`
}

// Alive reports whether the recorded process still runs.
func (r Record) Alive() bool {
	boot, err := bootID()
	if err != nil || boot != r.Boot {
		return false
	}
	info, ok := Lookup(r.PID)
	return ok && info.StartTicks == r.StartTicks
}

// Spec is a process to start.
type Spec struct {
	Name string
	Args []string
	Env  []string
	Dir  string
	// Log is where its output goes; one earlier log is kept beside it.
	Log string
	// Records is the folder in which it is recorded.
	Records string
}

// Child is a process started by this one, which outlives it.
type Child struct {
	Record
	// Exited is closed when the process has ended; Err says how.
	Exited chan struct{}
	err    error
}

// Err says how the process ended; only valid once Exited is closed.
func (c *Child) Err() error { return c.err }

// Start starts a process in a session of its own, so that neither the end of
// this process nor an interrupt at its terminal reaches it.
func Start(spec Spec, now time.Time) (*Child, error) {
	log, err := openLog(spec.Log)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	defer log.Close()
	// It outlives this process, and every context of it.
	cmd := exec.CommandContext(context.Background(), spec.Args[0], spec.Args[1:]...)
	cmd.Env, cmd.Dir = spec.Env, spec.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	child := &Child{Record: Record{Name: spec.Name, PID: cmd.Process.Pid, Started: now}, Exited: make(chan struct{})}
	info, ok := Lookup(child.PID)
	child.StartTicks = info.StartTicks
	child.Boot, err = bootID()
	if ok && err == nil {
		err = child.save(spec.Records)
	}
	if err != nil {
		// Unrecorded it could not be found again.
		return nil, errors.Join(fmt.Errorf("record %s: %w", spec.Name, err), cmd.Process.Kill(), cmd.Wait())
	}
	// Ends with the process it waits for, or with this one.
	go func() {
		child.err = cmd.Wait()
		close(child.Exited)
	}()
	return child, nil
}

func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Rename(path, path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
}

func recordPath(dir, name string) string { return filepath.Join(dir, name+".json") }

func (r Record) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := recordPath(dir, r.Name)
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// LoadRecord returns the record of name in dir; found is false without one, or
// with one that is damaged, which names no process.
func LoadRecord(dir, name string) (r Record, found bool) {
	data, err := os.ReadFile(recordPath(dir, name))
	if err != nil || json.Unmarshal(data, &r) != nil || r.PID <= 1 {
		return Record{}, false
	}
	return r, true
}

// RemoveRecord forgets name.
func RemoveRecord(dir, name string) error {
	if err := os.Remove(recordPath(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// pollInterval is how often the end of a process is looked for that is nobody's
// child here.
const pollInterval = 20 * time.Millisecond

// Stop asks the recorded process to end and kills it after grace. It returns
// once the process has ended.
func Stop(ctx context.Context, r Record, grace time.Duration) error {
	if !r.Alive() {
		return nil
	}
	if err := signal(r.PID, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s (process %d): %w", r.Name, r.PID, err)
	}
	patience, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if waitEnd(patience, r) {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := signal(r.PID, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s (process %d): %w", r.Name, r.PID, err)
	}
	if !waitEnd(ctx, r) {
		return fmt.Errorf("kill %s (process %d): %w", r.Name, r.PID, ctx.Err())
	}
	return nil
}

func waitEnd(ctx context.Context, r Record) bool {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for r.Alive() {
		select {
		case <-ctx.Done():
			return !r.Alive()
		case <-tick.C:
		}
	}
	return true
}

// KillAll kills processes at once and returns when they have ended.
func KillAll(ctx context.Context, processes []Info) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	var records []Record
	for _, p := range processes {
		r := Record{Name: filepath.Base(firstOf(p.Args)), PID: p.PID, StartTicks: p.StartTicks, Boot: boot}
		if !r.Alive() {
			continue
		}
		if err := signal(p.PID, syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill process %d (%s): %w", p.PID, r.Name, err)
		}
		records = append(records, r)
	}
	for _, r := range records {
		if !waitEnd(ctx, r) {
			return fmt.Errorf("process %d (%s) does not end: %w", r.PID, r.Name, ctx.Err())
		}
	}
	return nil
}

func firstOf(args []string) string {
	if len(args) == 0 {
		return "?"
	}
	return args[0]
}

func signal(pid int, s syscall.Signal) error {
	if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}
