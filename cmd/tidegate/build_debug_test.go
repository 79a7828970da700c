package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	serve "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/internal/baseimage"
)

// openTerminal makes a pseudo-terminal: what a person's side is, and the name of
// the program's.
func openTerminal(t *testing.T) (person *os.File, program *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 100}))
	person = os.NewFile(uintptr(fd), "person")
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { person.Close() })
	return person, program
}

// screen is what a terminal has shown so far.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (s *screen) read(from io.Reader) {
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		s.mu.Lock()
		s.text.Write(buffer[:n])
		s.mu.Unlock()
		select {
		case s.more <- struct{}{}:
		default:
		}
		if err != nil {
			close(s.more)
			return
		}
	}
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await waits until the text is shown.
func (s *screen) await(t *testing.T, text string) {
	t.Helper()
	limit := time.After(2 * time.Minute) // for a build that hangs
	for !strings.Contains(s.String(), text) {
		select {
		case _, open := <-s.more:
			require.True(t, open || strings.Contains(s.String(), text), "ended before %q was shown:\n%s", text, s)
		case <-limit:
			t.Fatalf("%q was never shown:\n%s", text, s)
		}
	}
}

func pushBusybox(t *testing.T) (host string) {
	t.Helper()
	server := httptest.NewServer(serve.New(serve.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host = strings.TrimPrefix(server.URL, "http://")
	made, err := baseimage.Busybox(t.Context(), t.TempDir())
	require.NoError(t, err)
	ref, err := name.ParseReference(host + "/library/busybox:latest")
	require.NoError(t, err)
	require.NoError(t, remote.Write(ref, made))
	return host
}

func TestDebugOpensAShellInTheFailedStep(t *testing.T) {
	t.Setenv(programVariable, "1")
	binary, err := os.Executable()
	require.NoError(t, err)
	host := pushBusybox(t)
	dir, err := os.MkdirTemp("", "tidegate-debug-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	context := filepath.Join(dir, "context")
	require.NoError(t, os.Mkdir(context, 0o755))
	dockerfile := "FROM busybox\nENV GREETING=hello\nWORKDIR /srv/app\nRUN echo left > /srv/app/behind && exit 3\n"
	require.NoError(t, os.WriteFile(filepath.Join(context, "Dockerfile"), []byte(dockerfile), 0o600))

	start := func(arguments ...string) (*exec.Cmd, *os.File, *screen) {
		person, program := openTerminal(t)
		command := exec.Command(binary, append([]string{"build", "--cache-dir", filepath.Join(dir, "cache"), "--mirror", "docker.io=" + host}, append(arguments, context)...)...)
		command.Stdin, command.Stdout, command.Stderr = program, program, program
		command.Env = append(os.Environ(), "TERM=xterm")
		command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
		require.NoError(t, command.Start())
		require.NoError(t, program.Close())
		shown := &screen{more: make(chan struct{}, 1)}
		go shown.read(person)
		return command, person, shown
	}

	command, person, shown := start("--debug")
	shown.await(t, "in the filesystem of the failed step")
	require.Contains(t, shown.String(), ">    4 | RUN echo left > /srv/app/behind && exit 3")
	_, err = person.WriteString("echo \"<$GREETING $(pwd) $(cat behind) $(stty size)>\"\n")
	require.NoError(t, err)
	shown.await(t, "<hello /srv/app left 40 100>")
	// Ctrl-C reaches what runs in the shell, and not the build.
	_, err = person.WriteString("sh -c 'echo \"asleep $((1+2))\"; exec sleep 600'\n")
	require.NoError(t, err)
	shown.await(t, "asleep 3")
	_, err = person.WriteString("\x03")
	require.NoError(t, err)
	_, err = person.WriteString("echo \"still $((1+1)) here\"\n")
	require.NoError(t, err)
	shown.await(t, "still 2 here")
	_, err = person.WriteString("exit 0\n")
	require.NoError(t, err)
	var exit *exec.ExitError
	require.ErrorAs(t, command.Wait(), &exit, "a failed build stays failed")

	command, _, shown = start("--debug=/bin/zsh")
	require.ErrorAs(t, command.Wait(), &exit)
	shown.await(t, "--debug=/bin/zsh cannot be opened: the step's filesystem has no /bin/zsh")

	// No terminal, no shell: said before the build begins.
	out, err := exec.Command(binary, "build", "--debug", context).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "standard input is none")
}
