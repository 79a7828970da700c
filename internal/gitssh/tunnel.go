package gitssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	"golang.org/x/net/proxy"
)

// connectTimeout bounds how long a server may take to accept.
const connectTimeout = 30 * time.Second

// scheme is that of proxy URLs that lead through a tunnel.
const scheme = "tidegate-tunnel"

// Tunnel carries the connections of one conversation. go-git connects and shakes
// hands without a context, so that a server that accepts and says nothing would
// hold it for ever; its proxy is the one place where a connection can be given to it.
// Nil is no tunnel: go-git connects as it does.
type Tunnel struct {
	ctx   context.Context //nolint:containedctx // the life of the connections, which go-git opens
	end   context.CancelFunc
	id    string
	stall time.Duration
	left  atomic.Int64

	mu     sync.Mutex
	failed error
}

var (
	tunnels  = map[string]*Tunnel{} // by id
	opened   sync.Mutex             // guards them
	numbered atomic.Int64
)

func init() {
	proxy.RegisterDialerType(scheme, func(u *url.URL, _ proxy.Dialer) (proxy.Dialer, error) {
		opened.Lock()
		defer opened.Unlock()
		t := tunnels[u.Host]
		if t == nil {
			return nil, errors.New("the tunnel is closed")
		}
		return t, nil
	})
}

// Open makes a tunnel whose connections end with ctx, when nothing comes for
// stall (zero: however long that is), or after so many bytes.
func Open(ctx context.Context, stall time.Duration, bytes int64) *Tunnel {
	t := &Tunnel{id: strconv.FormatInt(numbered.Add(1), 10), stall: stall}
	t.ctx, t.end = context.WithCancel(ctx)
	t.left.Store(bytes)
	opened.Lock()
	defer opened.Unlock()
	tunnels[t.id] = t
	return t
}

// Close ends the connections.
func (t *Tunnel) Close() {
	if t == nil {
		return
	}
	opened.Lock()
	delete(tunnels, t.id)
	opened.Unlock()
	t.end()
}

// Proxy makes go-git connect through the tunnel.
func (t *Tunnel) Proxy() transport.ProxyOptions {
	if t == nil {
		return transport.ProxyOptions{}
	}
	return transport.ProxyOptions{URL: scheme + "://" + t.id}
}

// Allow sets how many bytes may come from now on.
func (t *Tunnel) Allow(bytes int64) {
	if t != nil {
		t.left.Store(bytes)
	}
}

// Err is why the tunnel ended a connection by itself: go-git, and SSH below it,
// tell of a lost connection only.
func (t *Tunnel) Err() error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

func (t *Tunnel) fail(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = err
	}
	return err
}

// Dial is what x/net's proxies must have.
func (t *Tunnel) Dial(network, address string) (net.Conn, error) {
	return t.DialContext(t.ctx, network, address)
}

// DialContext connects, through the proxy of the environment where one is set.
func (t *Tunnel) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	dialled, err := proxy.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: dialled, tunnel: t, forget: context.AfterFunc(t.ctx, func() { _ = dialled.Close() })}, nil
}

// conn is a connection within the tunnel's bounds.
type conn struct {
	net.Conn
	tunnel *Tunnel
	forget func() bool
}

func (c *conn) Read(p []byte) (int, error) {
	if stall := c.tunnel.stall; stall > 0 {
		if err := c.SetReadDeadline(time.Now().Add(stall)); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(p)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = c.tunnel.fail(fmt.Errorf("nothing came for %s", c.tunnel.stall))
	case c.tunnel.left.Add(-int64(n)) < 0:
		err = c.tunnel.fail(errors.New("the server sends more than is taken"))
	}
	return n, err
}

func (c *conn) Close() error {
	c.forget()
	return c.Conn.Close()
}
