package oci

import (
	"fmt"
	"maps"
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

// defaultPath is PATH for a command that brings none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// hostname is the same in every container: a build must not depend on a name.
const hostname = "tidegate"

// capabilities are those that Docker leaves to a container's root.
var capabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// Paths of /proc and /sys that tell about the host or change it.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// containerSpec is the pure part: what the runtime is told about a container.
func containerSpec(root, id string, command sandbox.Command, who identity, mounts []specs.Mount, c controllers, limits Limits) (*specs.Spec, error) {
	namespaces := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.UTSNamespace}, {Type: specs.IPCNamespace},
	}
	if !command.HostNetwork {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	base := baseMounts()
	if c.unified {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		base = append(base, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}})
	}
	// That of the process that starts the runtime is otherwise the container's:
	// what a command makes must not depend on who runs Tidegate.
	umask := uint32(0o022)
	dir := command.Dir
	if dir == "" {
		dir = "/"
	}
	spec := &specs.Spec{
		Version:  "1.0.2",
		Hostname: hostname,
		Root:     &specs.Root{Path: root},
		Mounts:   append(base, mounts...),
		Process: &specs.Process{
			Args:            command.Args,
			Env:             environment(command.Env, who.home),
			Cwd:             dir,
			User:            specs.User{UID: who.uid, GID: who.gid, AdditionalGids: who.groups, Umask: &umask},
			NoNewPrivileges: true,
			Terminal:        command.Terminal != nil,
			Capabilities:    &specs.LinuxCapabilities{Bounding: capabilities},
		},
		Linux: &specs.Linux{
			Namespaces:    namespaces,
			CgroupsPath:   cgroupPath(id),
			Resources:     c.resources(limits),
			MaskedPaths:   maskedPaths,
			ReadonlyPaths: readonlyPaths,
		},
	}
	if who.uid == 0 {
		spec.Process.Capabilities.Effective, spec.Process.Capabilities.Permitted = capabilities, capabilities
	}
	applySetup(spec, command.Setup)
	profile, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		return nil, fmt.Errorf("load the default seccomp profile: %w", err)
	}
	spec.Linux.Seccomp = profile
	return spec, nil
}

func environment(env map[string]string, home string) []string {
	all := map[string]string{"PATH": defaultPath, "HOME": home}
	maps.Copy(all, env)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, name+"="+all[name])
	}
	return list
}

func baseMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
}
