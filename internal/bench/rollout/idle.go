package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tidegate-ci/tidegate/internal/demo"
)

// idleAtOnce is how many releases are made at a time.
const idleAtOnce = 50

// idleRow makes releases, and then measures what they cost while nothing is
// rolled out: the process that made them, and a server whose environment they are.
func idleRow(ctx context.Context, b *bench) (found []result, err error) {
	err = b.inWorld(ctx, func(w *world) (err error) {
		d, err := b.newDriver(ctx, w)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.close()) }()
		before := w.proxy.requests()
		// Without pods: it is the releases that are managed.
		r, err := d.do(order{Namespace: w.namespace, Apps: b.idle, Pods: 0, Image: fakeImage(1), AtOnce: idleAtOnce})
		if err != nil {
			return err
		}
		made := w.proxy.requests().minus(before)
		note := fmt.Sprintf("made in %.0f s, %.1f requests each", r.Seconds, float64(made.total())/float64(b.idle))
		results, err := b.idles(ctx, w, "tidegate, that made them", d.process.Process.Pid, note)
		if err != nil {
			return err
		}
		found = append(found, results...)
		results, err = b.idleServer(ctx, w)
		found = append(found, results...)
		return err
	})
	return found, err
}

// idles watches a process in which nothing is rolled out.
func (b *bench) idles(ctx context.Context, w *world, who string, pid int, note string) ([]result, error) {
	if err := linger(ctx, trailing); err != nil {
		return nil, err
	}
	before := w.proxy.requests()
	if err := linger(ctx, b.idleFor); err != nil {
		return nil, err
	}
	made := w.proxy.requests().minus(before)
	now, peak, err := memory(pid)
	if err != nil {
		return nil, err
	}
	return []result{
		result{Who: who, Measure: "memory", Unit: "MB", Value: float64(now) / 1e6, Note: fmt.Sprintf("peak %.0f MB; %s", float64(peak)/1e6, note)}.aim(150, ""),
		result{Who: who, Measure: "requests a minute", Value: float64(made.total()) / b.idleFor.Minutes(), Note: made.String()}.aim(0, ""),
	}, nil
}

// idleServer is a real server with the releases' namespace as an environment.
func (b *bench) idleServer(ctx context.Context, w *world) (found []result, err error) {
	dir := filepath.Join(b.dir, "server-"+time.Now().Format("150405"))
	forge, err := demo.NewForge(ctx, filepath.Join(dir, "shop"), "octo/shop")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, forge.Close()) }()
	file := filepath.Join(b.dir, "server.kubeconfig")
	if err := w.proxy.kubeconfig(file, w.namespace); err != nil {
		return nil, err
	}
	binary, err := filepath.Abs(b.binary)
	if err != nil {
		return nil, err
	}
	server, err := demo.NewServer(ctx, demo.ServerOptions{Binary: binary, Dir: filepath.Join(dir, "server"), Forge: forge, Kubeconfig: file, Namespace: w.namespace})
	if err != nil {
		return nil, err
	}
	if err := server.Start(ctx); err != nil {
		return nil, err
	}
	defer server.Kill()
	return b.idles(ctx, w, "tidegate serve", server.Pid(), "")
}
