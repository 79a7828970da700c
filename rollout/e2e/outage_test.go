//go:build e2e

package e2e

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"k8s.io/client-go/rest"

	"github.com/tidegate-ci/tidegate/rollout"
)

// cable is a connection to the API server that can be pulled out.
type cable struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	out   bool
	conns map[net.Conn]bool
}

func newCable(t *testing.T, to string) *cable {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cable{listener: listener, to: to, conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { c.carry(near) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		c.pull()
		wg.Wait()
	})
	return c
}

func (c *cable) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer far.Close()
	c.mu.Lock()
	if c.out {
		c.mu.Unlock()
		return
	}
	c.conns[near], c.conns[far] = true, true
	c.mu.Unlock()
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1])
			done <- struct{}{}
		}()
	}
	<-done
	_, _ = near.Close(), far.Close()
	<-done
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, near)
	delete(c.conns, far)
}

func (c *cable) pull() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = true
	for conn := range c.conns {
		_ = conn.Close()
	}
}

func (c *cable) plug() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = false
}

func TestAPIServerGoesAwayInACanary(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.startVerified(v1)
	server, err := url.Parse(config.Host)
	require.NoError(t, err)
	c := newCable(t, server.Host)
	far := rest.CopyConfig(config)
	far.Host = "https://" + c.listener.Addr().String()
	if !far.Insecure {
		far.ServerName = server.Hostname()
	}
	controller, err := rollout.New(rollout.Cluster{Config: far}, rollout.Options{Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))})
	require.NoError(t, err)
	tell := w.told()
	ended := make(chan error, 1)
	go func() {
		_, err := controller.Start(w.ctx, w.request(v2, 0, rollout.Step{Weight: 50, Hold: 5 * time.Second}), w.log(tell))
		ended <- err
	}()
	w.await(tell, rollout.Canary, "held until")
	c.pull()
	outage := time.NewTimer(12 * time.Second) // longer than the lease lives
	select {
	case err := <-ended:
		require.NoError(t, err, "gave up while the API server was away")
	case <-outage.C:
	}
	c.plug()
	require.NoError(t, <-ended)
	w.settles(map[string]int{v2: 3})
	w.noCanary()
}
