//go:build !race

// These tests start the program many times in processes that share nothing, so
// that the race detector finds nothing and costs a minute. "make test-unit" runs
// them without it.

package main

import (
	"bytes"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// buildAs runs `tidegate build` with the rights of a user of this machine.
func buildAs(t *testing.T, program string, uid, gid uint32, dir string, args ...string) (digest, output string, err error) {
	t.Helper()
	home := t.TempDir()
	require.NoError(t, os.Chown(home, int(uid), int(gid)))
	require.NoError(t, os.Chmod(filepath.Dir(home), 0o755))
	var out, progress bytes.Buffer
	command := exec.Command(program, append([]string{"build", "--progress=plain", "--cache-dir", filepath.Join(home, "cache")}, append(args, dir)...)...)
	command.Env = []string{programVariable + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home}
	command.Stdout, command.Stderr = &out, &progress
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	err = command.Run()
	return strings.TrimSpace(out.String()), progress.String(), err
}

// testUser is a user of this machine with subordinate ids.
func testUser(t *testing.T) (uid, gid uint32) {
	t.Helper()
	const login = "tidegate-test"
	if _, err := user.Lookup(login); err != nil {
		out, err := exec.Command("useradd", "--no-create-home", login).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	_, err := exec.LookPath("newuidmap")
	require.NoError(t, err, "apt-get install uidmap")
	found, err := user.Lookup(login)
	require.NoError(t, err)
	u, err := strconv.ParseUint(found.Uid, 10, 32)
	require.NoError(t, err)
	g, err := strconv.ParseUint(found.Gid, 10, 32)
	require.NoError(t, err)
	return uint32(u), uint32(g)
}

func TestAnOrdinaryUserBuildsWhatRootBuilds(t *testing.T) {
	program, host := program(t), baseRegistry(t)
	dir := contextOf(t, "FROM "+host+"/base AS made\n"+`COPY --chown=1000:1001 file /srv/a/file
COPY file /srv/b/file
RUN mkdir -m 1777 /data && chown 7:8 /data /srv/b && chmod 4711 /srv/a/file && rm /srv/b/file && ln -s a /srv/link && ln /srv/a/file /srv/hard && id -u
RUN rm -r /srv/a && mkdir /srv/a && touch /srv/a/new && grep -q 'CapEff:.*00000000a80425fb' /proc/self/status && grep -q 'Seccomp:.*2' /proc/self/status && [ $(ls /sys/class/net | grep -cv '^lo$') = 0 ] && [ $(ls /proc | grep -c '^[0-9]*$') -lt 8 ]
USER 1000
RUN id -u >/data/who && ! touch /root/x && ! touch /srv/b/y
FROM scratch
COPY --from=made /srv /srv
COPY --from=made /data /data
`)
	want, output, err := buildAs(t, program, 0, 0, dir)
	require.NoError(t, err, output)
	uid, gid := testUser(t)
	got, output, err := buildAs(t, program, uid, gid, dir)
	require.NoError(t, err, output)
	require.Equal(t, want, got, output)
	// The layers with RUN themselves.
	want, _, err = buildAs(t, program, 0, 0, dir, "--target", "made")
	require.NoError(t, err)
	got, output, err = buildAs(t, program, uid, gid, dir, "--target", "made")
	require.NoError(t, err, output)
	require.Equal(t, want, got)
	// The failure of a command is the command's.
	_, output, err = buildAs(t, program, uid, gid, contextOf(t, "FROM "+host+"/base\nRUN exit 7\n"))
	require.ErrorContains(t, err, "exit status 1")
	require.Contains(t, output, "exit status 7")
}

// Who has no further ids of this machine builds with root alone; files of others
// keep their owners.
func TestAUserWithoutFurtherIdsBuildsAsRootAlone(t *testing.T) {
	program, host := program(t), baseRegistry(t)
	dir := contextOf(t, "FROM "+host+"/base AS made\n"+`COPY --chown=1000:1001 file /srv/a/file
RUN chmod 600 /srv/a/file && echo made >/srv/new && rm /etc/group
FROM scratch
COPY --from=made /srv /srv
`)
	const nobodyElse = 61234
	for _, target := range []string{"", "made"} {
		want, output, err := buildAs(t, program, 0, 0, dir, "--target", target)
		require.NoError(t, err, output)
		got, output, err := buildAs(t, program, nobodyElse, nobodyElse, dir, "--target", target)
		require.NoError(t, err, output)
		require.Equal(t, want, got, output)
	}
	_, output, err := buildAs(t, program, nobodyElse, nobodyElse, contextOf(t, "FROM "+host+"/base\nUSER 1000\nRUN id\n"))
	require.Error(t, err)
	require.Contains(t, output, "only root can be had here")
}
