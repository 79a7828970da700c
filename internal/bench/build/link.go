package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// link passes connections on, each byte later by the latency, as a long cable
// would: it delays, it does not slow down.
type link struct {
	address  string
	listener net.Listener
	stopped  context.CancelFunc
	working  sync.WaitGroup
}

func startLink(ctx context.Context, to string, latency time.Duration) (*link, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, stopped := context.WithCancel(ctx)
	l := &link{address: listener.Addr().String(), listener: listener, stopped: stopped}
	l.working.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			l.working.Go(func() { connect(ctx, client, to, latency) })
		}
	})
	return l, nil
}

func (l *link) stop() {
	l.stopped()
	_ = l.listener.Close() // ends accepting; there is nothing else to fail
	l.working.Wait()
}

func connect(ctx context.Context, client net.Conn, to string, latency time.Duration) {
	defer client.Close()
	var dialer net.Dialer
	server, err := dialer.DialContext(ctx, "tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	end := context.AfterFunc(ctx, func() { _ = errors.Join(client.Close(), server.Close()) })
	defer end()
	// A handshake takes a round trip.
	if !wait(ctx, 2*latency) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { delay(ctx, server, client, latency) })
	both.Go(func() { delay(ctx, client, server, latency) })
	both.Wait()
}

// wait lets time pass, and tells whether ctx allowed that.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

type chunk struct {
	data []byte
	due  time.Time
}

// inFlight bounds the chunks on the way: 256 of at most 64 KiB, a window of 16
// MiB, more than 50 ms at 1 Gbit/s.
const inFlight = 256

func delay(ctx context.Context, to, from net.Conn, latency time.Duration) {
	chunks := make(chan chunk, inFlight)
	var sender sync.WaitGroup
	sender.Go(func() {
		for c := range chunks {
			if !wait(ctx, time.Until(c.due)) {
				break
			}
			if _, err := to.Write(c.data); err != nil {
				break
			}
		}
		for range chunks { // the reader must not wait for ever
		}
		if tcp, ok := to.(*net.TCPConn); ok {
			_ = tcp.CloseWrite() // the other end may have gone
		}
	})
	for {
		buffer := make([]byte, 64<<10)
		n, err := from.Read(buffer)
		if n > 0 {
			chunks <- chunk{buffer[:n], time.Now().Add(latency)}
		}
		if err != nil {
			break
		}
	}
	close(chunks)
	sender.Wait()
}
