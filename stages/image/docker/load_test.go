package docker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// No Docker engine runs where these tests do: engine is a small server in its
// place, which answers POST /images/load as the API's reference describes.
func engine(t *testing.T, answer http.HandlerFunc) Host {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	server := &http.Server{Handler: answer}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(listener) }()
	t.Cleanup(func() { require.NoError(t, server.Close()); <-ended })
	return Host{URL: "unix://" + socket, From: "test"}
}

func archive(text string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, text); return err }
}

func TestTheArchiveGoesIntoTheEngine(t *testing.T) {
	var got string
	h := engine(t, func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "POST /images/load?quiet=1 application/x-tar", r.Method+" "+r.URL.String()+" "+r.Header.Get("Content-Type"))
		body, _ := io.ReadAll(r.Body)
		got = string(body)
		_, _ = io.WriteString(w, "{\"status\":\"Loading layer\",\"progressDetail\":{}}\nno json\n{\"stream\":\"Loaded image: shop:1\\n\"}\n")
	})
	loaded, err := Load(context.Background(), h, archive("content"))
	require.NoError(t, err)
	require.Equal(t, []string{"Loaded image: shop:1"}, loaded)
	require.Equal(t, "content", got)
}

func TestFailuresOfTheEngine(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"in the stream": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, `{"errorDetail":{"message":"no space"},"error":"no \u001b[31mspace"}`+"\n")
		}, "no  [31mspace"},
		"as a status": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"message":"not for you"}`)
		}, "403 Forbidden: not for you"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, "307"},
	} {
		t.Run(name, func(t *testing.T) {
			h := engine(t, c.answer)
			_, err := Load(context.Background(), h, archive("content"))
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, h.URL)
		})
	}
	broken := errors.New("the layer has gone")
	h := engine(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	_, err := Load(context.Background(), h, func(io.Writer) error { return broken })
	require.ErrorIs(t, err, broken)
}

func TestWhereNoneListensTheSocketIsNamed(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	_, err := Load(context.Background(), Host{URL: "unix://" + socket, From: "DOCKER_HOST"}, archive("content"))
	require.ErrorContains(t, err, "no Docker answers at unix://"+socket+" (DOCKER_HOST)")
	require.ErrorContains(t, err, "type=docker,dest=FILE")
	_, err = Load(context.Background(), Host{URL: "ssh://host"}, archive("content"))
	require.ErrorContains(t, err, "docker load")
}

func TestOverTCP(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "{\"stream\":\"ok\"}\n")
	}))
	t.Cleanup(server.Close)
	loaded, err := Load(context.Background(), Host{URL: "tcp://" + server.Listener.Addr().String()}, archive("x"))
	require.NoError(t, err)
	require.Equal(t, []string{"ok"}, loaded)
}

func TestTheEngineThatTheDockerCommandWouldUse(t *testing.T) {
	dir := t.TempDir()
	sum := sha256.Sum256([]byte("remote"))
	meta := filepath.Join(dir, "contexts", "meta", hex.EncodeToString(sum[:]))
	require.NoError(t, os.MkdirAll(meta, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(meta, "meta.json"), []byte(`{"Name":"remote","Endpoints":{"docker":{"Host":"tcp://remote:2375"}}}`), 0o600))
	find := func(env map[string]string) (Host, error) {
		env["DOCKER_CONFIG"] = dir
		return FindHost(func(name string) string { return env[name] })
	}
	h, err := find(map[string]string{})
	require.NoError(t, err)
	require.Equal(t, DefaultHost, h.URL)
	h, err = find(map[string]string{"DOCKER_HOST": "tcp://x:1"})
	require.NoError(t, err)
	require.Equal(t, "tcp://x:1", h.URL)
	h, err = find(map[string]string{"DOCKER_CONTEXT": "remote"})
	require.NoError(t, err)
	require.Equal(t, "tcp://remote:2375", h.URL)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"currentContext":"remote"}`), 0o600))
	h, err = find(map[string]string{})
	require.NoError(t, err)
	require.Equal(t, "tcp://remote:2375", h.URL)
	_, err = find(map[string]string{"DOCKER_CONTEXT": "none"})
	require.ErrorContains(t, err, `docker context "none"`)
	_, err = find(map[string]string{"DOCKER_HOST": "tcp://x:1", "DOCKER_TLS_VERIFY": "1"})
	require.ErrorContains(t, err, "certificates for Docker")
}

func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte("{\"stream\":\"Loaded\"}\n{\"error\":\"x\"}\n"))
	f.Add([]byte("null\n[]\n\"\"\n"))
	f.Fuzz(func(_ *testing.T, data []byte) { _, _ = readAnswer(bytes.NewReader(data)) })
}
