// Package process starts processes that outlive their starter, remembers them,
// and looks at what runs on the machine.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Info is one process as /proc shows it. Fields that could not be read, because
// it ended or is not ours to look at, are zero.
type Info struct {
	PID int
	// StartTicks is the start in clock ticks since boot; with PID it names a
	// process for as long as the machine runs.
	StartTicks uint64
	Args       []string
	// Cwd is the working directory, without the mark of a deleted one.
	Cwd string
	// NetNS identifies the network namespace.
	NetNS  string
	zombie bool
}

// All lists the processes that run, without zombies.
func All() ([]Info, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []Info
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if info, ok := Lookup(pid); ok {
			all = append(all, info)
		}
	}
	return all, nil
}

// Lookup returns the process pid; ok is false if it does not run or is a zombie.
func Lookup(pid int) (info Info, ok bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Info{}, false
	}
	info, err = parseStat(string(stat))
	if err != nil || info.zombie {
		return Info{}, false
	}
	if cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil && len(cmdline) > 0 {
		info.Args = strings.Split(string(bytes.TrimSuffix(cmdline, []byte{0})), "\x00")
	}
	if cwd, err := os.Readlink(filepath.Join(dir, "cwd")); err == nil {
		info.Cwd = strings.TrimSuffix(cwd, " (deleted)")
	}
	info.NetNS, _ = os.Readlink(filepath.Join(dir, "ns", "net"))
	return info, true
}

// parseStat reads the text of /proc/PID/stat (proc(5)). The command name, second
// field, may hold anything, so fields count from its closing parenthesis.
func parseStat(stat string) (Info, error) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return Info{}, errors.New("no command name in /proc/PID/stat")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(stat[:open]))
	if err != nil {
		return Info{}, fmt.Errorf("process id in /proc/PID/stat: %w", err)
	}
	fields := strings.Fields(stat[end+1:])
	const state, startTime = 3 - 3, 22 - 3
	if len(fields) <= startTime {
		return Info{}, errors.New("/proc/PID/stat is too short")
	}
	ticks, err := strconv.ParseUint(fields[startTime], 10, 64)
	if err != nil {
		return Info{}, fmt.Errorf("start time in /proc/PID/stat: %w", err)
	}
	return Info{PID: pid, StartTicks: ticks, zombie: fields[state] == "Z" || fields[state] == "X"}, nil
}

// bootID changes with every start of the machine, which makes start ticks count
// anew.
func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return strings.TrimSpace(string(data)), nil
}
