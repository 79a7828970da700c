//go:build e2e

package e2e

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// toll is a reverse proxy to the API server that kills the process which uses it
// at one of its writes: before that is passed on, or when it is done and its
// answer is not given.
type toll struct {
	proxy    *httputil.ReverseProxy
	at       int  // the write that kills, from 1
	answered bool // it is passed on first

	started chan struct{} // closed when process may be used
	process *exec.Cmd

	mu     sync.Mutex
	writes []string
	struck string // the write that killed; "" when there was none
}

// isWrite tells whether a request may change something.
func isWrite(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	}
	return r.URL.Query().Get("dryRun") == ""
}

// written names what a request writes: "PATCH deployments/shop".
func written(r *http.Request) string {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	for i, part := range parts {
		if part == "namespaces" && i+2 < len(parts) {
			parts = parts[i+2:]
			break
		}
	}
	return r.Method + " " + strings.Join(parts, "/")
}

func (t *toll) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !isWrite(r) || t.count(r) != t.at {
		t.proxy.ServeHTTP(w, r)
		return
	}
	if t.answered {
		t.proxy.ServeHTTP(httptest.NewRecorder(), r)
	}
	<-t.started
	t.mu.Lock()
	t.struck = written(r)
	t.mu.Unlock()
	_ = t.process.Process.Kill()
	panic(http.ErrAbortHandler) // there is nobody to answer
}

// count notes a write and returns how many there have been.
func (t *toll) count(r *http.Request) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writes = append(t.writes, written(r))
	return len(t.writes)
}

// through runs the real binary behind a toll and waits for its end. The command
// gets the toll's kubeconfig; dir is where it runs.
func (w *world) through(at int, answered bool, dir string, args ...string) (struck string, writes []string, out []byte, err error) {
	w.Helper()
	server, err := url.Parse(config.Host)
	require.NoError(w, err)
	transport, err := rest.TransportFor(config)
	require.NoError(w, err)
	t := &toll{at: at, answered: answered, started: make(chan struct{}),
		proxy: &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
			Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(server) }}}
	front := httptest.NewUnstartedServer(t)
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	front.Start()
	defer func() {
		front.CloseClientConnections()
		front.Close()
	}()
	kubeconfig := api.NewConfig()
	kubeconfig.Clusters["toll"] = &api.Cluster{Server: front.URL}
	kubeconfig.Contexts["toll"] = &api.Context{Cluster: "toll"}
	kubeconfig.CurrentContext = "toll"
	path := filepath.Join(dir, "kubeconfig")
	require.NoError(w, clientcmd.WriteToFile(*kubeconfig, path))

	command := exec.CommandContext(w.ctx, tidegate, append([]string{"rollout", "--kubeconfig", path, "-n", w.namespace, "--by", "doomed"}, args...)...)
	command.Dir = dir
	var text strings.Builder
	command.Stdout, command.Stderr = &text, &text
	require.NoError(w, command.Start())
	t.process = command
	close(t.started)
	err = command.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.struck, t.writes, []byte(text.String()), err
}
