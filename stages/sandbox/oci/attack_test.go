package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

// The build of a Dockerfile that names where the runtime's own files are open.
func TestWorkingDirectoryLeadsNowhereElse(t *testing.T) {
	r := findRuntime(t)
	cache := t.TempDir()
	for name, target := range map[string]string{"fd": "/proc/self/fd/7", "up": "../../../proc/self/fd", "fine": "sub", "loop": "loop"} {
		require.NoError(t, os.Symlink(target, filepath.Join(cache, name)))
	}
	require.NoError(t, os.Mkdir(filepath.Join(cache, "sub"), 0o755))
	root := busyboxRoot(t)
	require.NoError(t, os.Symlink("/proc/self/fd", filepath.Join(root, "fds")))
	require.NoError(t, os.Symlink("cache/up", filepath.Join(root, "chain")))
	for dir, want := range map[string]string{
		"/proc/self/fd/7": "", "/proc/self/fd/8": "", "/proc/../proc/self/fd/7": "", "/fds/7": "", "/chain/7": "", "/dev/fd/7": "", "/sys": "",
		"/cache/fd": "", "/cache/up/8": "", "/cache/loop": "",
		"/cache/fine": "/cache/sub", "/cache": "/cache", "../../tmp": "/tmp", "": "/", "/fresh/dir": "/fresh/dir",
	} {
		out, err := shell(t, r, root, "pwd; ls ../../../.. 2>/dev/null | grep -x work", func(c *sandbox.Command) {
			c.Dir = dir
			c.Mounts = []sandbox.Mount{{Source: cache, Target: "/cache"}}
		})
		if want == "" {
			require.ErrorContains(t, err, "working directory", dir)
			continue
		}
		require.Equal(t, want+"\n", out, "%s: %v", dir, err)
	}
}

// A cache that two commands share: while one is being set up, the other swaps
// the directory that was asked for against a link to the host.
func TestASwappedSourceIsNotFollowed(t *testing.T) {
	r, root := findRuntime(t), busyboxRoot(t)
	cache, host := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(host, "secret"), []byte("of the host"), 0o644))
	sub := filepath.Join(cache, "sub")
	require.NoError(t, os.Mkdir(sub, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(sub, "mine"), []byte("x"), 0o644))
	require.NoError(t, os.Symlink(host, filepath.Join(cache, "link")))
	// The swap happens between the look-up and the start: a name within the cache
	// then leads to nothing, and never to the host.
	b, err := r.newBundle()
	require.NoError(t, err)
	_, _, err = b.stage(sandbox.Mount{Source: "/sub", Within: cache, Target: "/m"})
	require.NoError(t, err)
	require.NoError(t, os.Rename(sub, sub+"-aside"))
	require.NoError(t, os.Symlink(host, sub))
	require.ErrorIs(t, b.start(exec.Command("true")), os.ErrNotExist)
	require.NoError(t, b.remove())
	require.NoError(t, os.Remove(sub))
	require.NoError(t, os.Rename(sub+"-aside", sub))
	// The swap happens between the start of the runtime and its mounting: for the
	// runtime, here a shell in its place, the source is what was mounted.
	if b, err = r.newBundle(); err != nil {
		t.Fatal(err)
	}
	_, staged, err := b.stage(sandbox.Mount{Source: "/sub", Within: cache, Target: "/m"})
	require.NoError(t, err)
	var out bytes.Buffer
	runtime := exec.Command("sh", "-c", "mv "+sub+" "+sub+"-aside && ln -s "+host+" "+sub+" && ls "+staged)
	runtime.Stdout, runtime.Stderr = &out, &out
	require.NoError(t, b.start(runtime))
	require.NoError(t, runtime.Wait(), out.String())
	require.Equal(t, "mine\n", out.String())
	require.NoError(t, b.remove())
	for _, source := range []string{"/link", "/../../" + host, "link/secret"} {
		_, err := shell(t, r, root, "cat /m/secret", func(c *sandbox.Command) {
			c.Mounts = []sandbox.Mount{{Source: source, Within: cache, Target: "/m"}}
		})
		require.ErrorIs(t, err, os.ErrNotExist, source)
	}
}

// What is cleaned up after a container are the mount points made before it, not
// what the command put in their place.
func TestCleaningUpMountPointsStaysInTheRoot(t *testing.T) {
	r, root := findRuntime(t), busyboxRoot(t)
	victim := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(victim, "b", "c"), 0o755))
	// The mount point /a/b/c is busy while the container runs; its parents' names are not.
	out, err := shell(t, r, root, "mkdir /aside && mv /a /aside/a && ln -s "+victim+" /a", func(c *sandbox.Command) {
		c.Mounts = []sandbox.Mount{{Source: t.TempDir(), Target: "/a/b/c"}}
	})
	require.NoError(t, err, out)
	link, err := os.Readlink(filepath.Join(root, "a"))
	require.NoError(t, err, "the attack was not carried out: %s", out)
	require.Equal(t, victim, link)
	require.DirExists(t, filepath.Join(victim, "b", "c"))
}

func TestHostileArgumentsAreRefused(t *testing.T) {
	r, root := findRuntime(t), busyboxRoot(t)
	for name, change := range map[string]func(*sandbox.Command){
		"zero byte in an argument":  func(c *sandbox.Command) { c.Args = []string{"echo", "a\x00b"} },
		"zero byte in a variable":   func(c *sandbox.Command) { c.Env = map[string]string{"A": "b\x00C=d"} },
		"equals sign in a name":     func(c *sandbox.Command) { c.Env = map[string]string{"A=B": "c"} },
		"no name":                   func(c *sandbox.Command) { c.Env = map[string]string{"": "c"} },
		"zero byte in the user":     func(c *sandbox.Command) { c.User = "root\x00" },
		"zero byte in a directory":  func(c *sandbox.Command) { c.Dir = "/tmp\x00/x" },
		"a million arguments":       func(c *sandbox.Command) { c.Args = make([]string, 1e6) },
		"a variable of ten million": func(c *sandbox.Command) { c.Env = map[string]string{"A": strings.Repeat("x", 1e7)} },
		"three fields of a user":    func(c *sandbox.Command) { c.User = "0:0:0" },
		"negative user":             func(c *sandbox.Command) { c.User = "-1" },
		"user that is a path":       func(c *sandbox.Command) { c.User = "../../etc" },
	} {
		_, err := shell(t, r, root, "true", change)
		require.Error(t, err, name)
		require.ErrorContains(t, err, "run a container: ", name)
	}
	out, err := shell(t, r, root, `printf %s "$A"`, func(c *sandbox.Command) { c.Env = map[string]string{"A": "two\nlines=1"} })
	require.NoError(t, err)
	require.Equal(t, "two\nlines=1", out)
}

// Secrets are seen by the command alone: no file of the host holds them while it
// runs, and so none can be left if everything is killed.
func TestSecretsAreOnNoFilesystemOfTheHost(t *testing.T) {
	r, root := findRuntime(t), busyboxRoot(t)
	const canary = "canary-of-a-secret-5f1c"
	found := ""
	search := func() {
		names, _ := exec.Command("grep", "-rlF", canary, r.dir, root, "/dev/shm", "/run").Output() // finding nothing is status 1
		found += string(names)
	}
	out := &watcher{on: "ready", do: search}
	err := r.Run(context.Background(), root, sandbox.Command{
		Args: []string{"sh", "-c", `test "$TOKEN" = ` + canary + `-env; cat /run/secrets/s; stat -c "%a %u:%g" /run/secrets/s; echo x 2>/dev/null >>/run/secrets/s && echo written; echo ready`},
		Env:  map[string]string{"TOKEN": canary + "-env"}, Stdout: out, Stderr: out,
		Mounts: []sandbox.Mount{{Target: "/run/secrets/s", Content: &sandbox.Content{Data: []byte(canary + "\n"), UID: 5, GID: 6, Mode: 0o440}}},
	}, Limits{})
	require.NoError(t, err)
	require.Equal(t, canary+"\n440 5:6\nready\n", out.text.String())
	search()
	require.Empty(t, found)
}

// The profile is what makes the kernel refuse: without it the same calls get
// through, or fail for another reason.
func TestForbiddenCallsAreRefused(t *testing.T) {
	r, root := findRuntime(t), busyboxRoot(t)
	program := filepath.Join(root, "bin", "calls")
	build := exec.Command("go", "build", "-o", program, "testdata/calls/main.go")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	raw, err := build.CombinedOutput()
	require.NoError(t, err, string(raw))
	answers := func(profile bool) map[string]string {
		var out bytes.Buffer
		command := sandbox.Command{Args: []string{"calls"}, Stdout: &out, Stderr: &out}
		if !profile {
			r := *r
			r.adjust = func(spec *specs.Spec) { spec.Linux.Seccomp = nil }
			require.NoError(t, r.Run(context.Background(), root, command, Limits{}), out.String())
		} else {
			require.NoError(t, r.Run(context.Background(), root, command, Limits{}), out.String())
		}
		var answers map[string]string
		require.NoError(t, json.Unmarshal(out.Bytes(), &answers), out.String())
		return answers
	}
	with, without := answers(true), answers(false)
	require.Len(t, with, 8)
	for call, answer := range with {
		require.Equal(t, "operation not permitted", answer, call)
		require.NotEqual(t, answer, without[call], "%s: the test would not notice if there were no profile", call)
	}
}

// The first runtime that works is taken, not the first that is there.
func TestARuntimeThatDoesNotWorkIsPassedOver(t *testing.T) {
	working := findRuntime(t).command
	bin := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "runc"), []byte("#!/bin/sh\necho it does not work here >&2\nexit 1\n"), 0o755))
	require.NoError(t, os.Symlink(working, filepath.Join(bin, "crun")))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	found, err := Find(context.Background(), Options{Dir: t.TempDir()})
	require.NoError(t, err)
	require.Equal(t, filepath.Join(bin, "crun"), found.Command())
	// Both that are installed are tried; what does not work says why.
	for _, name := range []string{"/usr/sbin/runc", "/usr/bin/crun"} {
		r, err := Find(context.Background(), Options{Dir: t.TempDir(), Command: name})
		if err != nil {
			require.ErrorIs(t, err, ErrNoRuntime)
			require.ErrorContains(t, err, name)
			continue
		}
		out, err := shell(t, r, busyboxRoot(t), "grep -q 'Seccomp:.*2' /proc/self/status && grep -q 'NoNewPrivs:.*1' /proc/self/status && grep -q 'CapEff:.*00000000a80425fb' /proc/self/status && echo confined")
		require.NoError(t, err)
		require.Equal(t, "confined\n", out, name)
	}
}
