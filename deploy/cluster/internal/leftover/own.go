// Package leftover finds what a cluster has on the machine, in whatever state it
// died, and removes that and nothing else.
package leftover

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/process"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/render"
)

// Own returns those of all that belong to the cluster in the folder state: a
// component of ours or a part of containerd, with a path below that folder among
// its arguments or as its working directory. An editor with a log file open is
// not one.
func Own(all []process.Info, state string) []process.Info {
	return slices.DeleteFunc(slices.Clone(all), func(p process.Info) bool {
		return !isPart(p) || !mentions(p, state)
	})
}

func isPart(p process.Info) bool {
	if len(p.Args) == 0 {
		return false
	}
	switch name := filepath.Base(p.Args[0]); {
	case name == "containerd", name == "runc", strings.HasPrefix(name, "containerd-shim"):
		return true
	}
	return len(p.Args) > 1 && slices.Contains(render.Processes(), p.Args[1])
}

func mentions(p process.Info, state string) bool {
	below := state + "/"
	if p.Cwd == state || strings.HasPrefix(p.Cwd, below) {
		return true
	}
	return slices.ContainsFunc(p.Args[1:], func(arg string) bool {
		_, value, _ := strings.Cut(arg, "=")
		return strings.HasPrefix(arg, below) || strings.HasPrefix(value, below)
	})
}

// Foreign returns a kube-proxy or kubelet among all that is not own and shares
// the network namespace netNS: it would fight with ours over packet filter
// rules.
func Foreign(all, own []process.Info, netNS string) (process.Info, bool) {
	for _, p := range all {
		if p.NetNS != netNS || slices.ContainsFunc(own, func(o process.Info) bool { return o.PID == p.PID }) {
			continue
		}
		// The name may be the program's or, with many behind one main, its first
		// argument.
		for _, arg := range p.Args[:min(2, len(p.Args))] {
			if base := filepath.Base(arg); base == "kube-proxy" || base == "kubelet" {
				return p, true
			}
		}
	}
	return process.Info{}, false
}

// mountPoints returns the mount points at or below dir, the last mounted first,
// from the text of /proc/self/mountinfo.
func mountPoints(mountinfo, dir string) []string {
	var points []string
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape(fields[4])
		// The kernel marks what was mounted on a folder that is gone.
		point = strings.TrimSuffix(point, "//deleted")
		if point == dir || strings.HasPrefix(point, dir+"/") {
			points = append(points, point)
		}
	}
	slices.Reverse(points)
	return points
}

// unescape undoes the octal escapes of proc_pid_mountinfo(5).
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if code, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
