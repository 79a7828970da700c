package registry_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidegate-ci/tidegate/internal/registry"
)

const killedEnv = "TIDEGATE_TEST_REGISTRY"

// TestMain becomes the registry that the kill test kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(killedEnv); dir != "" {
		r, err := registry.New(registry.Config{Dir: dir})
		if err == nil {
			var server *registry.Server
			if server, err = r.Listen(context.Background(), "127.0.0.1:0"); err == nil {
				fmt.Println(server.Address())
				err = server.Serve(context.Background())
			}
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// start serves a registry until the test ends or stop is called.
func start(t *testing.T, config registry.Config) (address string, stop func()) {
	t.Helper()
	r, err := registry.New(config)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	server, err := r.Listen(ctx, "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(t, <-ended)
			require.NoError(t, r.Close())
		}
	}
	t.Cleanup(stop)
	return server.Address(), stop
}

func reference(t *testing.T, address, rest string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(address + "/" + rest)
	require.NoError(t, err)
	return ref
}

func TestPushRestartPull(t *testing.T) {
	dir := t.TempDir()
	image, err := random.Image(100_000, 3)
	require.NoError(t, err)
	want, err := image.Digest()
	require.NoError(t, err)

	address, stop := start(t, registry.Config{Dir: dir})
	require.NoError(t, remote.Write(reference(t, address, "shop:v1"), image))
	index, err := random.Index(1000, 1, 2)
	require.NoError(t, err)
	require.NoError(t, remote.WriteIndex(reference(t, address, "shop/index:v1"), index))
	stop()

	address, _ = start(t, registry.Config{Dir: dir})
	pulled, err := remote.Image(reference(t, address, "shop:v1"))
	require.NoError(t, err)
	got, err := pulled.Digest()
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, validate.Image(pulled))
	tags, err := remote.List(reference(t, address, "shop:v1").Context())
	require.NoError(t, err)
	require.Equal(t, []string{"v1"}, tags)

	require.NoError(t, remote.Delete(reference(t, address, "shop@"+want.String())))
	_, err = remote.Head(reference(t, address, "shop@"+want.String()))
	require.Error(t, err)
}

// A registry that is killed while a blob is uploaded works after a restart: the
// upload goes on where it was, or begins anew.
func TestKilledInTheMiddleOfAnUpload(t *testing.T) {
	dir := t.TempDir()
	launch := func() (string, *exec.Cmd) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killedEnv+"="+dir)
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, err := bufio.NewReader(stdout).ReadString('\n')
		require.NoError(t, err)
		return strings.TrimSpace(line), cmd
	}
	address, cmd := launch()
	image, err := random.Image(1_000_000, 2)
	require.NoError(t, err)
	kept, err := random.Image(1000, 1)
	require.NoError(t, err)
	require.NoError(t, remote.Write(reference(t, address, "shop:kept"), kept))

	// An upload whose body never ends: half is on the server when it is killed.
	response, err := http.Post("http://"+address+"/v2/shop/blobs/uploads/", "", nil)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, 202, response.StatusCode)
	reader, writer := io.Pipe()
	request, err := http.NewRequest(http.MethodPatch, response.Header.Get("Location"), reader)
	require.NoError(t, err)
	patched := make(chan error, 1)
	go func() {
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			err = response.Body.Close()
		}
		patched <- err
	}()
	_, err = writer.Write(bytes.Repeat([]byte("x"), 1<<20))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.NoError(t, writer.Close())
	require.Error(t, <-patched)

	address, cmd = launch()
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // the end is by our own signal
	})
	require.NoError(t, remote.Write(reference(t, address, "shop:new"), image))
	for tag, want := range map[string]string{"new": digest(t, image), "kept": digest(t, kept)} {
		pulled, err := remote.Image(reference(t, address, "shop:"+tag))
		require.NoError(t, err)
		require.NoError(t, validate.Image(pulled))
		require.Equal(t, want, digest(t, pulled))
	}
}

func digest(t *testing.T, image v1.Image) string {
	t.Helper()
	d, err := image.Digest()
	require.NoError(t, err)
	return d.String()
}

func TestUsers(t *testing.T) {
	image, err := random.Image(100, 1)
	require.NoError(t, err)
	good := remote.WithAuth(&authn.Basic{Username: "ci", Password: "right horse"})
	bad := remote.WithAuth(&authn.Basic{Username: "ci", Password: "wrong"})
	for name, anonymous := range map[string]bool{"closed": false, "anyone may pull": true} {
		t.Run(name, func(t *testing.T) {
			address, _ := start(t, registry.Config{Dir: t.TempDir(), Users: map[string]string{"ci": "right horse"}, AnonymousPull: anonymous})
			ref := reference(t, address, "shop:v1")
			require.Error(t, remote.Write(ref, image))
			require.Error(t, remote.Write(ref, image, bad))
			require.NoError(t, remote.Write(ref, image, good))
			_, err := remote.Image(ref, good)
			require.NoError(t, err)
			_, err = remote.Image(ref, bad)
			require.Error(t, err)
			response, err := http.Get("http://" + address + "/v2/shop/manifests/v1")
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Equal(t, anonymous, response.StatusCode == http.StatusOK)
		})
	}
}

func TestAddressesThatNeedUsers(t *testing.T) {
	open, err := registry.New(registry.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	for _, address := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0", "registry.example.com:0"} {
		_, err := open.Listen(context.Background(), address)
		require.ErrorContains(t, err, "set users", address)
	}
	require.NoError(t, open.Close())
	closed, err := registry.New(registry.Config{Dir: t.TempDir(), Users: map[string]string{"ci": "x"}})
	require.NoError(t, err)
	server, err := closed.Listen(context.Background(), "0.0.0.0:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, server.Serve(ctx))
	require.NoError(t, closed.Close())
}

func TestBadConfiguration(t *testing.T) {
	_, err := registry.New(registry.Config{})
	require.ErrorContains(t, err, "no directory")
	_, err = registry.New(registry.Config{Dir: t.TempDir(), Users: map[string]string{"ci": ""}})
	require.ErrorContains(t, err, "password")
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = registry.New(registry.Config{Dir: file})
	require.Error(t, err)
}

// What every push causes is no error in the log; what is one, is.
func TestQuietLogs(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	dir := t.TempDir()
	address, _ := start(t, registry.Config{Dir: dir, Log: zap.New(core)})
	image, err := random.Image(100, 1)
	require.NoError(t, err)
	require.NoError(t, remote.Write(reference(t, address, "shop:v1"), image))
	_, err = remote.Image(reference(t, address, "shop:none"))
	require.Error(t, err)
	require.Empty(t, logs.All())
}
