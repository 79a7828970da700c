//go:build e2e

package e2e

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/tidegate-ci/tidegate/internal/settings"
)

// registryProxy stands between the builder and the embedded registry and can
// hold or refuse uploads.
type registryProxy struct {
	Address string

	mu sync.Mutex
	// refuse answers the next uploads with these statuses, in order.
	refuse []int
	held   chan struct{} // closed when the first upload is held
	gate   chan struct{} // uploads wait until it is closed; nil: they pass
	server *http.Server
}

func newRegistryProxy(t *testing.T) *registryProxy {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	p := &registryProxy{Address: listener.Addr().String(), held: make(chan struct{})}
	p.server = &http.Server{}
	t.Cleanup(func() { _ = p.server.Close() })
	t.Cleanup(p.release)
	go func() { _ = p.server.Serve(listener) }()
	return p
}

// use makes a server push and its cluster pull through the proxy.
func (p *registryProxy) use(s *settings.Settings) {
	target := &url.URL{Scheme: "http", Host: s.Registry.Listen}
	proxy := &httputil.ReverseProxy{
		// The registry builds upload locations from the Host header: it must
		// name the proxy, or the client would go around it.
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
	}
	p.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			if status := p.refusal(); status != 0 {
				w.Header().Set("Retry-After", "1")
				http.Error(w, "refused by the test", status)
				return
			}
			if strings.Contains(r.URL.Path, "/uploads/") && !p.pass(r) {
				return
			}
		}
		proxy.ServeHTTP(w, r)
	})
	s.Registry.Push = p.Address
}

func (p *registryProxy) refusal() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.refuse) == 0 {
		return 0
	}
	status := p.refuse[0]
	p.refuse = p.refuse[1:]
	return status
}

func (p *registryProxy) refusalsLeft() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.refuse)
}

// hold makes uploads wait until release.
func (p *registryProxy) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate = make(chan struct{})
}

func (p *registryProxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gate != nil {
		close(p.gate)
		p.gate = nil
	}
}

func (p *registryProxy) pass(r *http.Request) bool {
	p.mu.Lock()
	gate := p.gate
	if gate != nil {
		select {
		case <-p.held:
		default:
			close(p.held)
		}
	}
	p.mu.Unlock()
	if gate == nil {
		return true
	}
	select {
	case <-gate:
		return true
	case <-r.Context().Done():
		return false
	}
}
