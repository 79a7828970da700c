package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what a build took.
type usage struct {
	Wall time.Duration
	// CPU is user and system time of all processes.
	CPU time.Duration
	// Peak is the largest resident set, in bytes; of a daemon and its client the sum.
	Peak int64
	// Read and Written are bytes that went through read and write calls, of
	// files, pipes and sockets.
	Read, Written int64
}

func (u usage) plus(v usage) usage {
	return usage{u.Wall + v.Wall, u.CPU + v.CPU, u.Peak + v.Peak, u.Read + v.Read, u.Written + v.Written}
}

// maxOutput bounds what is kept of a command's output, in bytes.
const maxOutput = 64 << 10

type lastBytes struct{ bytes.Buffer }

func (b *lastBytes) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxOutput {
		b.Reset()
	}
	b.Buffer.Write(p[max(0, len(p)-maxOutput):])
	return len(p), nil
}

// run runs a command to its end and tells what it and its children took. Its
// output is in the error when it fails.
func run(command *exec.Cmd) (usage, error) {
	var output lastBytes
	command.Stdout, command.Stderr = &output, &output
	start := time.Now()
	if err := command.Start(); err != nil {
		return usage{}, err
	}
	// Until it is waited for, a process that has ended still tells what it read and wrote.
	pid := command.Process.Pid
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	wall := time.Since(start)
	read, written, ioErr := transferred(pid)
	if err := command.Wait(); err != nil {
		return usage{}, fmt.Errorf("%s: %w:\n%s", strings.Join(command.Args, " "), err, output.Bytes())
	}
	if ioErr != nil {
		return usage{}, ioErr
	}
	rusage, ok := command.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return usage{}, fmt.Errorf("%s: the system tells no resource usage", command.Path)
	}
	return usage{
		Wall: wall, CPU: command.ProcessState.UserTime() + command.ProcessState.SystemTime(),
		Peak: rusage.Maxrss << 10, Read: read, Written: written,
	}, nil
}

func transferred(pid int) (read, written int64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, 0, err
	}
	fields := colonFields(data)
	return number(fields["rchar"]), number(fields["wchar"]), nil
}

// colonFields reads lines of "name: value".
func colonFields(data []byte) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields
}

func number(text string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(text, " kB"), 10, 64) // 0 is what the kernel would say
	return n
}

// clockTicks is the unit of CPU time in /proc/PID/stat, per second; it is the
// same on every Linux that Go runs on.
const clockTicks = 100

// process reads what a running process and its children that have ended took so
// far, with the peak since the last call of forgetPeak.
func process(pid int) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	// The second field is a name in parentheses, which may have spaces in it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const user, childrenSystem = 11, 14 // fields 14 to 17 of proc(5)
	if len(fields) <= childrenSystem {
		return usage{}, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	var ticks int64
	for _, field := range fields[user : childrenSystem+1] {
		ticks += number(field)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return usage{}, err
	}
	read, written, err := transferred(pid)
	return usage{
		CPU: time.Duration(ticks) * time.Second / clockTicks, Peak: number(colonFields(status)["VmHWM"]) << 10,
		Read: read, Written: written,
	}, err
}

// forgetPeak starts the peak of a running process anew.
func forgetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// alongside measures what a running process takes while work is done.
func alongside(ctx context.Context, pid int, work func(context.Context) (usage, error)) (usage, error) {
	if err := forgetPeak(pid); err != nil {
		return usage{}, err
	}
	before, err := process(pid)
	if err != nil {
		return usage{}, err
	}
	client, err := work(ctx)
	if err != nil {
		return usage{}, err
	}
	after, err := process(pid)
	if err != nil {
		return usage{}, err
	}
	return client.plus(usage{
		CPU: after.CPU - before.CPU, Peak: after.Peak, Read: after.Read - before.Read, Written: after.Written - before.Written,
	}), nil
}
