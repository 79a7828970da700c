package host

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

const testPath = "/usr/local/bin:/usr/bin:/bin"

func run(t *testing.T, ctx context.Context, script string, change ...func(*sandbox.Command)) (string, error) {
	t.Helper()
	var out bytes.Buffer
	command := sandbox.Command{
		Args: []string{"sh", "-c", script}, Dir: t.TempDir(), Env: map[string]string{"PATH": testPath}, Stdout: &out, Stderr: &out,
	}
	for _, c := range change {
		c(&command)
	}
	err := (&Sandbox{Grace: 200 * time.Millisecond, ungrouped: ungrouped}).Run(ctx, command)
	return out.String(), err
}

// ungrouped is what a test runs its commands with; bothWays runs it twice.
var ungrouped bool

func bothWays(t *testing.T, test func(t *testing.T)) {
	for _, without := range []bool{false, true} {
		ungrouped = without
		t.Run(map[bool]string{false: "with a cgroup", true: "without a cgroup"}[without], test)
	}
	ungrouped = false
}

func TestExitStatusAndOutput(t *testing.T) {
	for _, test := range []struct {
		script, output string
		err            error
	}{
		{"echo out; echo err >&2", "out\nerr\n", nil},
		{"exit 3", "", &sandbox.ExitError{Code: 3}},
		{"kill -9 $$", "", &sandbox.ExitError{Code: 137, Signal: "killed"}},
		{"cat", "", nil},
	} {
		out, err := run(t, context.Background(), test.script)
		require.Equal(t, test.output, out, test.script)
		require.Equal(t, test.err, err, test.script)
	}
}

func TestSeesItsOwnEnvironmentOnly(t *testing.T) {
	t.Setenv("SERVER_SECRET", "hidden")
	out, err := run(t, context.Background(), "env; pwd", func(c *sandbox.Command) { c.Env["GREETING"] = "hello world" })
	require.NoError(t, err)
	require.Contains(t, out, "GREETING=hello world\n")
	require.NotContains(t, out, "SERVER_SECRET")
}

func TestProgramIsFoundInTheCommandsPath(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tool"), []byte("#!/bin/sh\necho mine\n"), 0o755))
	out, err := run(t, context.Background(), "", func(c *sandbox.Command) { c.Args, c.Env["PATH"] = []string{"tool"}, dir })
	require.NoError(t, err)
	require.Equal(t, "mine\n", out)
	_, err = run(t, context.Background(), "", func(c *sandbox.Command) { c.Args = []string{"no-such-tool"} })
	require.ErrorContains(t, err, "no-such-tool")
	out, err = run(t, context.Background(), "", func(c *sandbox.Command) { c.Args, c.Dir = []string{"./tool"}, dir })
	require.NoError(t, err)
	require.Equal(t, "mine\n", out)
}

// The script starts grandchildren that left the group, the session and, where a
// cgroup holds them, their environment too.
const spawner = `
sleep 1000 & echo $!
setsid sh -c 'trap "" TERM; echo $$; exec sleep 1000' &
setsid sh -c 'setsid sh -c "echo \$\$; exec sleep 1000" &' &
`

func pidsIn(out string) (pids []int) {
	for _, field := range strings.Fields(out) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func gone(pid int) bool {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(raw), ") Z ")
}

// lines tells when so many lines were written.
type lines struct {
	text bytes.Buffer
	want int
	full func()
}

func (l *lines) Write(p []byte) (int, error) {
	n, err := l.text.Write(p)
	if bytes.Count(l.text.Bytes(), []byte("\n")) >= l.want {
		l.full()
	}
	return n, err
}

func TestCancellationKillsGrandchildren(t *testing.T) { bothWays(t, cancellationKillsGrandchildren) }

func cancellationKillsGrandchildren(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	reason := errors.New("the user said stop")
	out := &lines{want: 3, full: func() { cancel(reason) }}
	_, err := run(t, ctx, spawner+"trap '' TERM; while :; do sleep 1000; done", func(c *sandbox.Command) { c.Stdout = out })
	require.ErrorIs(t, err, reason)
	pids := pidsIn(out.text.String())
	require.Len(t, pids, 3)
	for _, pid := range pids {
		require.True(t, gone(pid), "process %d is still there", pid)
	}
}

func TestNothingOutlivesTheCommand(t *testing.T) { bothWays(t, nothingOutlivesTheCommand) }

func nothingOutlivesTheCommand(t *testing.T) {
	dir := t.TempDir()
	// The sleepers hold the output pipe open; the command must not wait for them.
	_, err := run(t, context.Background(), "("+spawner+") >pids; while [ $(wc -l <pids) -lt 3 ]; do sleep 0.01; done", func(c *sandbox.Command) { c.Dir = dir })
	require.NoError(t, err)
	out, err := os.ReadFile(filepath.Join(dir, "pids"))
	require.NoError(t, err)
	pids := pidsIn(string(out))
	require.Len(t, pids, 3)
	for _, pid := range pids {
		require.True(t, gone(pid), "process %d is still there", pid)
	}
}

func TestMembersAreFoundWithoutACgroup(t *testing.T) {
	f := &family{token: "test-token", leader: os.Getpid() + 1<<22}
	t.Setenv(markName, "unrelated")
	require.Empty(t, f.members())
}
