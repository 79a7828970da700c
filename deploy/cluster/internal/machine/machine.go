// Package machine finds out what the machine can do, so that the cluster's
// configuration follows from facts and not from the name of a distribution.
package machine

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Facts is what the configuration depends on.
type Facts struct {
	// CgroupV1 lists the mount points of version 1 hierarchies; none on a
	// machine with version 2 only.
	CgroupV1 []string
	// CgroupV2 is the mount point of the unified hierarchy, "" without one.
	CgroupV2 string
	// MayRaiseLimits is false if CAP_SYS_RESOURCE is missing: then nobody may
	// lower an OOM score, and the runtime must not try.
	MayRaiseLimits bool
	// Runtime is the path of runc, CNIPlugins the folder of the network plugins.
	Runtime, CNIPlugins string
	// Resolv is the file with the name servers that pods get.
	Resolv string
}

// Tool is an executable that must be on the machine.
type Tool struct {
	Name string
	// Package is the Debian package that brings it.
	Package string
	// Dirs are searched instead of PATH, if set.
	Dirs []string
}

// SearchPath is PATH with the folders of system programs, which an ordinary
// user's PATH lacks on Debian.
func SearchPath(path string) string {
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if !strings.Contains(":"+path+":", ":"+dir+":") {
			path += ":" + dir
		}
	}
	return strings.TrimPrefix(path, ":")
}

// cniDirs are where Debian and upstream put network plugins.
var cniDirs = []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}

// Tools lists what the cluster needs besides this binary.
func Tools() []Tool {
	return []Tool{
		{Name: "containerd", Package: "containerd"},
		{Name: "ctr", Package: "containerd"},
		{Name: "containerd-shim-runc-v2", Package: "containerd"},
		{Name: "runc", Package: "runc"},
		{Name: "iptables", Package: "iptables"},
		{Name: "iptables-save", Package: "iptables"},
		{Name: "iptables-restore", Package: "iptables"},
		{Name: "mount", Package: "mount"},
		{Name: "bridge", Package: "containernetworking-plugins", Dirs: cniDirs},
		{Name: "host-local", Package: "containernetworking-plugins", Dirs: cniDirs},
		{Name: "loopback", Package: "containernetworking-plugins", Dirs: cniDirs},
		{Name: "portmap", Package: "containernetworking-plugins", Dirs: cniDirs},
	}
}

// Missing returns the tools that are not on the machine.
func Missing(tools []Tool) []Tool {
	var missing []Tool
	for _, t := range tools {
		if find(t) == "" {
			missing = append(missing, t)
		}
	}
	return missing
}

func find(t Tool) string {
	if len(t.Dirs) == 0 {
		path, err := exec.LookPath(t.Name)
		if err != nil {
			return ""
		}
		return path
	}
	for _, dir := range t.Dirs {
		path := filepath.Join(dir, t.Name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// Detect reads the facts. PATH must already be the one that components get.
func Detect() (Facts, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return Facts{}, fmt.Errorf("look at the machine: %w", err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return Facts{}, fmt.Errorf("look at the machine: %w", err)
	}
	f := Facts{
		MayRaiseLimits: hasCapability(string(status), capSysResource),
		Runtime:        find(Tool{Name: "runc"}),
		CNIPlugins:     filepath.Dir(find(Tool{Name: "bridge", Dirs: cniDirs})),
		Resolv:         "/etc/resolv.conf",
	}
	f.CgroupV1, f.CgroupV2 = cgroups(string(mounts))
	// systemd-resolved's stub on 127.0.0.53 is another address inside a pod.
	const resolved = "/run/systemd/resolve/resolv.conf"
	if _, err := os.Stat(resolved); err == nil {
		f.Resolv = resolved
	}
	return f, nil
}

// cgroups reads the mount points of both versions from the text of
// /proc/self/mounts.
func cgroups(mounts string) (v1 []string, v2 string) {
	lines := bufio.NewScanner(strings.NewReader(mounts))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 || !strings.HasPrefix(fields[1], "/sys/fs/cgroup") {
			continue
		}
		switch fields[2] {
		case "cgroup":
			v1 = append(v1, fields[1])
		case "cgroup2":
			v2 = fields[1]
		}
	}
	return v1, v2
}

// capSysResource is CAP_SYS_RESOURCE of linux/capability.h.
const capSysResource = 24

// hasCapability reads the effective set from the text of /proc/self/status.
func hasCapability(status string, capability uint) bool {
	for line := range strings.Lines(status) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err == nil && set&(1<<capability) != 0
		}
	}
	return false
}
