package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tidegate-ci/tidegate/rollout"
)

// order asks the driving process to roll out a version of many apps.
type order struct {
	Namespace string `json:"namespace"`
	Apps      int    `json:"apps"`
	Pods      int    `json:"pods"`
	Image     string `json:"image"`
	Canary    []int  `json:"canary,omitempty"`
	// AtOnce is how many are under way at a time; 0 means all.
	AtOnce int `json:"atOnce,omitempty"`
}

// report is how an order went.
type report struct {
	Seconds  float64 `json:"seconds"`
	Verified int     `json:"verified"`
	Error    string  `json:"error,omitempty"` // the first
	// Reaction is from a change seen to the write that answers it, in milliseconds.
	Reaction99 float64 `json:"reaction99"`
	Reactions  int     `json:"reactions"`
}

func appName(i int) string { return fmt.Sprintf("app-%d", i) }

// driveAsAsked is a process with a controller of Tidegate's and nothing else, as
// a controller of another tool is: it does what the lines of standard input
// say, and answers each with a line.
func driveAsAsked(ctx context.Context, _ settings) error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	seen := &reactions{}
	controller, err := rollout.New(rollout.Cluster{Config: config}, rollout.Options{Log: zap.NewNop(), Reacted: seen.add})
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		seen.mu.Lock()
		seen.times = nil
		seen.mu.Unlock()
		r := o.carryOut(ctx, controller)
		r.Reaction99, r.Reactions = seen.quantile(0.99), seen.count()
		if err := answers.Encode(r); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (o order) carryOut(ctx context.Context, controller *rollout.Controller) report {
	var (
		mu    sync.Mutex
		r     report
		group sync.WaitGroup
		now   time.Duration
		start = time.Now()
	)
	if o.AtOnce == 0 {
		o.AtOnce = o.Apps
	}
	slots := make(chan struct{}, o.AtOnce)
	for i := range o.Apps {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			request, err := request(ctx, o.Namespace, app{name: appName(i), pods: o.Pods, image: o.Image, canary: o.Canary, bake: &now, fake: true})
			if err == nil {
				_, err = controller.Start(ctx, request, nil)
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				r.Verified++
			} else if r.Error == "" {
				r.Error = err.Error()
			}
		})
	}
	group.Wait()
	r.Seconds = time.Since(start).Seconds()
	return r
}

// driver is that process, from its parent's side.
type driver struct {
	process *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	log     *os.File
}

func (b *bench) newDriver(ctx context.Context, w *world) (*driver, error) {
	file := filepath.Join(b.dir, "driver.kubeconfig")
	if err := w.proxy.kubeconfig(file, w.namespace); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d := &driver{process: exec.CommandContext(context.WithoutCancel(ctx), self, "-drive")}
	d.process.Env = append(os.Environ(), "KUBECONFIG="+file)
	d.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if d.log, err = os.Create(filepath.Join(b.dir, "driver.log")); err != nil {
		return nil, err
	}
	d.process.Stderr = d.log
	if d.in, err = d.process.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := d.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	d.out = bufio.NewReader(out)
	return d, d.process.Start()
}

func (d *driver) close() error {
	_ = d.in.Close()
	err := d.process.Wait()
	_ = d.log.Close()
	return err
}

// do gives an order and returns when it is carried out.
func (d *driver) do(o order) (report, error) {
	var r report
	encoded, err := json.Marshal(o)
	if err != nil {
		return r, err
	}
	if _, err := d.in.Write(append(encoded, '\n')); err != nil {
		return r, err
	}
	line, err := d.out.ReadBytes('\n')
	if err != nil {
		return r, fmt.Errorf("the driving process ended: %w", err)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, err
	}
	if r.Verified != o.Apps {
		return r, fmt.Errorf("%d of %d rollouts were verified; the first that was not: %s", r.Verified, o.Apps, r.Error)
	}
	return r, nil
}
