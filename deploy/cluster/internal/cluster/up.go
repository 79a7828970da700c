package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/cgroup"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/debian"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/hostnet"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/leftover"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/machine"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/pki"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/process"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/render"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/sandboximage"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

// UpOptions change how Up goes about it.
type UpOptions struct {
	// Install allows to install missing Debian packages.
	Install bool
	// Fresh discards what an earlier cluster in the state folder left.
	Fresh bool
	// Timeout bounds the start of the processes, not an installation; 0 means
	// no bound.
	Timeout time.Duration
}

// Up makes the cluster run and be ready: a healthy one is left alone, anything
// else is cleaned up and started, with the state that an earlier one kept. If it
// fails or ctx ends, nothing is left running.
func (c *Cluster) Up(ctx context.Context, options UpOptions) error {
	if err := needRoot(); err != nil {
		return err
	}
	if err := claim(c.StateDir); err != nil {
		return err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if done, err := c.running(ctx, options); done || err != nil {
		return err
	}
	// What the components will find is what is looked for.
	if err := os.Setenv("PATH", machine.SearchPath(os.Getenv("PATH"))); err != nil {
		return err
	}
	say := func(line string) { c.Say("%s", line) }
	if err := debian.Ensure(ctx, machine.Tools(), options.Install, say); err != nil {
		return err
	}
	facts, err := machine.Detect()
	if err != nil {
		return err
	}
	if err := c.alone(); err != nil {
		return err
	}
	found, err := leftover.Clean(ctx, c.Settings, facts)
	if err != nil {
		return fmt.Errorf("clean up after an earlier run: %w", err)
	}
	if found.Any() {
		c.Say("cleaned up after an earlier run: %s", found)
	}
	if options.Fresh {
		if err := c.discard(); err != nil {
			return err
		}
	}
	if err := portsFree(c.Ports()); err != nil {
		return err
	}
	if options.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, options.Timeout)
		defer cancel()
	}
	if err := c.bringUp(ctx, facts); err != nil {
		return errors.Join(err, c.undo(ctx, facts))
	}
	return nil
}

// running reports whether a healthy cluster makes Up superfluous. One with other
// settings is not to be replaced silently.
func (c *Cluster) running(ctx context.Context, options UpOptions) (bool, error) {
	recorded, found, err := settings.Load(c.StateDir)
	if err != nil || !found {
		return false, err
	}
	actual := Cluster{Settings: recorded, Self: c.Self, Say: c.Say}
	status := actual.Status(ctx)
	if !status.Healthy {
		return false, nil
	}
	if recorded != c.Settings || options.Fresh {
		return false, fmt.Errorf("a cluster runs in %s already: take it down first by `tidegate-cluster down` to start one that is new or has other settings", c.StateDir)
	}
	c.Say("already running: %s", c.APIServer())
	return true, nil
}

// alone refuses a network that another cluster or network device uses.
func (c *Cluster) alone() error {
	all, err := process.All()
	if err != nil {
		return err
	}
	self, _ := process.Lookup(os.Getpid())
	if p, found := leftover.Foreign(all, leftover.Own(all, c.StateDir), self.NetNS); found {
		return fmt.Errorf("another Kubernetes runs on this machine (process %d, %s in %s): two on one network would fight over packet filter rules.\nUse that one by setting KUBECONFIG, stop it, or start this one in a network namespace of its own", p.PID, filepath.Base(p.Args[0]), p.Cwd)
	}
	device, network, err := hostnet.Conflict(c.Settings)
	if err != nil {
		return err
	}
	if device != "" {
		return fmt.Errorf("the machine's network %s on %s overlaps the cluster's (pods %s, Services %s): choose others by --pod-cidr and --service-cidr", network, device, c.PodCIDR, c.ServiceCIDR)
	}
	return nil
}

// portsFree says which port somebody else listens on.
func portsFree(ports []settings.Port) error {
	for _, p := range ports {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p.Number))
		if err == nil {
			err = l.Close()
		}
		switch {
		case err == nil:
		case errors.Is(err, syscall.EADDRINUSE) && p.Flag != "":
			return fmt.Errorf("port %d for %s is in use by another program: stop that (`ss -ltnp` shows it) or choose another port by %s", p.Number, p.Of, p.Flag)
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("port %d for %s is in use by another program: stop that (`ss -ltnp` shows it)", p.Number, p.Of)
		default:
			return fmt.Errorf("port %d for %s: %w", p.Number, p.Of, err)
		}
	}
	return nil
}

// undo takes down what a failed start has started. Logs stay.
func (c *Cluster) undo(ctx context.Context, facts machine.Facts) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	if _, err := leftover.Clean(ctx, c.Settings, facts); err != nil {
		return fmt.Errorf("clean up after the failed start: %w", err)
	}
	return nil
}

// bringUp starts everything on a clean machine and waits until it is ready.
func (c *Cluster) bringUp(ctx context.Context, facts machine.Facts) error {
	if err := c.prepare(ctx, facts); err != nil {
		return err
	}
	first, ctx1 := errgroup.WithContext(ctx)
	first.Go(func() error {
		if err := c.startReady(ctx1, render.Etcd); err != nil {
			return err
		}
		return c.startReady(ctx1, render.APIServer)
	})
	first.Go(func() error {
		if err := c.startReady(ctx1, render.Containerd); err != nil {
			return err
		}
		return c.importSandboxImage(ctx1)
	})
	if err := first.Wait(); err != nil {
		return err
	}
	api, err := c.client()
	if err != nil {
		return err
	}
	second, ctx2 := errgroup.WithContext(ctx)
	for _, name := range []string{render.ControllerManager, render.Scheduler, render.Proxy} {
		second.Go(func() error { return c.startReady(ctx2, name) })
	}
	second.Go(func() error { return allowKubeletAPI(ctx2, api) })
	second.Go(func() error { return c.startKubelet(ctx2) })
	if err := second.Wait(); err != nil {
		return err
	}
	if err := awaitServiceAccount(ctx, api); err != nil {
		return err
	}
	return nil
}

// startKubelet starts the kubelet and waits until the API server knows its node
// as ready: one that is only healthy has not looked at its pods yet.
func (c *Cluster) startKubelet(ctx context.Context) error {
	api, err := c.client()
	if err != nil {
		return err
	}
	child, err := c.start(render.Kubelet)
	if err != nil {
		return err
	}
	err = c.await(ctx, child, func(ctx context.Context) error { return nodeReady(ctx, api, c.Node, child.Started) })
	if err != nil {
		return err
	}
	c.Say("kubelet is healthy and node %s ready after %.1fs", c.Node, time.Since(child.Started).Seconds())
	return nil
}

func (c *Cluster) startReady(ctx context.Context, name string) error {
	started := time.Now()
	child, err := c.start(name)
	if err != nil {
		return err
	}
	if err := c.await(ctx, child, func(ctx context.Context) error { return c.probe(ctx, name) }); err != nil {
		return err
	}
	c.Say("%s is healthy after %.1fs", name, time.Since(started).Seconds())
	return nil
}

// prepare writes every file and makes what the kernel must have before the
// first process starts.
func (c *Cluster) prepare(ctx context.Context, facts machine.Facts) error {
	// First of all: from here on the folder is known to be a cluster's.
	if err := c.Save(); err != nil {
		return err
	}
	if err := c.writeIdentities(); err != nil {
		return err
	}
	files, err := render.Files(c.Settings, facts)
	if err != nil {
		return err
	}
	for name, data := range files {
		path := c.Path(name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	if err := cgroup.New(facts, render.CgroupRoot(c.Settings)).Create(); err != nil {
		return err
	}
	warnings, err := hostnet.Create(ctx, c.Settings)
	for _, warning := range warnings {
		c.Say("warning: %s", warning)
	}
	if err != nil {
		return err
	}
	c.Say("certificates, configuration and network are in place")
	return nil
}

func (c *Cluster) writeIdentities() error {
	dir := c.Path("pki")
	if err := pki.Ensure(dir, render.Authorities(), render.Identities(c.Settings), time.Now()); err != nil {
		return err
	}
	if err := pki.EnsureSigningKey(dir, render.ServiceAccountKey); err != nil {
		return err
	}
	for path, identity := range render.Kubeconfigs(c.Settings) {
		if err := pki.WriteKubeconfig(path, "tidegate", c.APIServer(), dir, identity); err != nil {
			return err
		}
	}
	return nil
}

// importSandboxImage gives containerd the image that every pod needs, marked so
// that nobody's garbage collection removes it.
func (c *Cluster) importSandboxImage(ctx context.Context) error {
	var archive bytes.Buffer
	if err := sandboximage.Archive(&archive, render.SandboxImage); err != nil {
		return err
	}
	if err := c.ctr(ctx, &archive, "images", "import", "-"); err != nil {
		return fmt.Errorf("import the sandbox image: %w", err)
	}
	if err := c.ctr(ctx, nil, "images", "label", render.SandboxImage, "io.cri-containerd.pinned=pinned"); err != nil {
		return fmt.Errorf("pin the sandbox image: %w", err)
	}
	return nil
}

func (c *Cluster) ctr(ctx context.Context, stdin *bytes.Buffer, args ...string) error {
	cmd := exec.CommandContext(ctx, "ctr", append([]string{"--address", c.ContainerdSocket(), "--namespace", "k8s.io"}, args...)...)
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
