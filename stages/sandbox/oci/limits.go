package oci

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Limits bound what a container may use. A zero field means no limit of that
// sort, except Processes. A limit whose cgroup controller this machine lacks is
// not applied.
type Limits struct {
	MemoryBytes int64
	// Processes bounds processes and threads; 0 means DefaultProcesses, -1 none.
	Processes int64
	// CPUs is how many processors' time it may use, such as 1.5.
	CPUs float64
}

// DefaultProcesses stops a fork bomb well before it stops the machine.
const DefaultProcesses = 8192

// controllers tells where this machine's cgroup controllers are.
type controllers struct {
	unified bool // cgroup v2 alone
	memory  bool
	pids    bool
	cpu     bool
}

const cgroupRoot = "/sys/fs/cgroup"

func findControllers() controllers {
	if raw, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		has := map[string]bool{}
		for _, name := range strings.Fields(string(raw)) {
			has[name] = true
		}
		return controllers{unified: true, memory: has["memory"], pids: has["pids"], cpu: has["cpu"]}
	}
	mounted := func(name, file string) bool {
		_, err := os.Stat(filepath.Join(cgroupRoot, name, file))
		return err == nil
	}
	return controllers{
		memory: mounted("memory", "memory.limit_in_bytes"),
		pids:   mounted("pids", "cgroup.procs"),
		cpu:    mounted("cpu", "cpu.cfs_quota_us"),
	}
}

const cpuPeriod = 100_000 // microseconds

func (c controllers) resources(limits Limits) *specs.LinuxResources {
	resources := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if limits.MemoryBytes > 0 && c.memory {
		limit := limits.MemoryBytes
		resources.Memory = &specs.LinuxMemory{Limit: &limit}
		if c.swapAccounting() {
			resources.Memory.Swap = &limit // memory and swap together
		}
	}
	processes := limits.Processes
	if processes == 0 {
		processes = DefaultProcesses
	}
	if processes > 0 && c.pids {
		resources.Pids = &specs.LinuxPids{Limit: &processes}
	}
	if limits.CPUs > 0 && c.cpu {
		quota, period := int64(limits.CPUs*cpuPeriod), uint64(cpuPeriod)
		resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	return resources
}

func (c controllers) swapAccounting() bool {
	if c.unified {
		return true
	}
	_, err := os.Stat(filepath.Join(cgroupRoot, "memory", "memory.memsw.limit_in_bytes"))
	return err == nil
}

// cgroupPath is where a container's cgroup lies below each controller's root.
func cgroupPath(id string) string { return "/tidegate/" + id }

// killedForMemory tells whether the kernel killed something in the container's
// cgroup because of its memory limit. The cgroup must still be there.
func (c controllers) killedForMemory(id string) bool {
	file := filepath.Join(cgroupRoot, "memory", cgroupPath(id), "memory.oom_control")
	if c.unified {
		file = filepath.Join(cgroupRoot, cgroupPath(id), "memory.events")
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "oom_kill" {
			count, err := strconv.ParseInt(fields[1], 10, 64)
			return err == nil && count > 0
		}
	}
	return false
}
