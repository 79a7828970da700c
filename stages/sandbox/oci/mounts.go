package oci

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

// maxNetworkFile bounds what is taken over of the host's resolv.conf and hosts.
const maxNetworkFile = 1 << 20

const localHosts = "127.0.0.1\tlocalhost " + hostname + "\n::1\tlocalhost ip6-localhost ip6-loopback\n"

// mounts makes the points for the command's mounts and for the files that
// describe its network, and returns what the runtime is to mount. A target below
// "~/" lies in the home of the command's user.
func (b *bundle) mounts(points *stubs, command sandbox.Command, home string) ([]specs.Mount, error) {
	wanted, err := b.networkFiles(command.HostNetwork, command.Setup.Hosts)
	if err != nil {
		return nil, err
	}
	for _, m := range command.Mounts {
		if rest, ok := strings.CutPrefix(m.Target, "~/"); ok {
			m.Target = path.Join(home, rest)
		}
		wanted = append(wanted, m)
	}
	// Outer mounts go first, whatever the order they were asked for.
	slices.SortStableFunc(wanted, func(a, b sandbox.Mount) int {
		return cmp.Compare(strings.Count(path.Clean(a.Target), "/"), strings.Count(path.Clean(b.Target), "/"))
	})
	var mounts []specs.Mount
	for _, m := range wanted {
		mount, err := b.bindMount(points, m)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, mount)
	}
	return mounts, nil
}

func (b *bundle) bindMount(points *stubs, m sandbox.Mount) (specs.Mount, error) {
	target := path.Clean(m.Target)
	if !path.IsAbs(target) {
		return specs.Mount{}, fmt.Errorf("mount at %q: the target must be absolute", m.Target)
	}
	if kept := belongsToContainer(target); kept != "" {
		return specs.Mount{}, fmt.Errorf("mount at %q: %s belongs to the container", m.Target, kept)
	}
	if m.Memory {
		return b.memoryMount(points, m, target)
	}
	source, name, err := b.stage(m)
	if err != nil {
		return specs.Mount{}, fmt.Errorf("mount at %s: %w", target, err)
	}
	at, err := points.ensure(target, source.directory)
	if err != nil {
		return specs.Mount{}, err
	}
	if kept := belongsToContainer(at); kept != "" {
		return specs.Mount{}, fmt.Errorf("mount at %q: a link in the image leads to %s, which belongs to the container", m.Target, at)
	}
	b.points = append(b.points, at)
	options := []string{"bind", "nosuid", "nodev", "rw"}
	if m.ReadOnly || m.Content != nil {
		options[3] = "ro"
	}
	return specs.Mount{Destination: at, Type: "bind", Source: name, Options: options}, nil
}

// memoryMount is an empty filesystem in memory.
func (b *bundle) memoryMount(points *stubs, m sandbox.Mount, target string) (specs.Mount, error) {
	at, err := points.ensure(target, true)
	if err != nil {
		return specs.Mount{}, err
	}
	if kept := belongsToContainer(at); kept != "" {
		return specs.Mount{}, fmt.Errorf("mount at %q: a link in the image leads to %s, which belongs to the container", m.Target, at)
	}
	b.points = append(b.points, at)
	options := []string{"nosuid", "nodev", "mode=1777", "rw"}
	if m.ReadOnly {
		options[3] = "ro"
	}
	if m.Size > 0 {
		options = append(options, fmt.Sprintf("size=%d", m.Size))
	}
	return specs.Mount{Destination: at, Type: "tmpfs", Source: "tmpfs", Options: options}, nil
}

// belongsToContainer tells which of the container's own trees a path lies in.
func belongsToContainer(name string) string {
	for _, kept := range []string{"/proc", "/sys", "/dev"} {
		if name == kept || strings.HasPrefix(name, kept+"/") {
			return kept
		}
	}
	return ""
}

// networkFiles writes /etc/hosts and /etc/resolv.conf as they are right for the
// container's network, whatever the image brings.
func (b *bundle) networkFiles(hostNetwork bool, hosts []sandbox.Host) ([]sandbox.Mount, error) {
	var mounts []sandbox.Mount
	for target, content := range map[string]string{"/etc/hosts": localHosts, "/etc/resolv.conf": ""} {
		if hostNetwork {
			host, err := readSome(target)
			if err != nil {
				return nil, err
			}
			if host != "" {
				content = host
			}
		}
		if target == "/etc/hosts" {
			content = hostLines(hosts) + content // the first entry of a name counts
		}
		source := filepath.Join(b.dir, path.Base(target))
		if err := os.WriteFile(source, []byte(content), 0o644); err != nil {
			return nil, err
		}
		mounts = append(mounts, sandbox.Mount{Source: source, Target: target})
	}
	return mounts, nil
}

func readSome(name string) (string, error) {
	file, err := os.Open(name)
	if os.IsNotExist(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxNetworkFile))
	return string(raw), err
}
