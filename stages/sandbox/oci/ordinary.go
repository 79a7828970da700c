package oci

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
	"github.com/tidegate-ci/tidegate/stages/sandbox/userns"
)

// ordinary changes a container's specification to what root of a user namespace
// may do. No cgroup is the user's: memory and processor time are not limited, and
// the number of processes only together with all others of the namespace.
func ordinary(spec *specs.Spec, users userns.Mapping, command sandbox.Command, limits Limits) error {
	who := &spec.Process.User
	if users.Single && (who.UID != 0 || who.GID != 0) {
		return fmt.Errorf("user %d:%d: only root can be had here: give this machine's user further ids (usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME) and install newuidmap (Debian: apt-get install uidmap)", who.UID, who.GID)
	}
	if users.Single {
		who.AdditionalGids = nil
	}
	spec.Linux.CgroupsPath, spec.Linux.Resources = "", nil
	processes := limits.Processes
	if processes == 0 {
		processes = DefaultProcesses
	}
	if processes > 0 {
		spec.Process.Rlimits = append(spec.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_NPROC", Soft: uint64(processes), Hard: uint64(processes)})
	}
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		switch {
		case m.Destination == "/sys" && command.HostNetwork:
			// Only who owns a network may mount its sysfs.
			*m = specs.Mount{Destination: "/sys", Type: "none", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
		case m.Type == "devpts" && users.Single:
			m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "gid=5" })
		}
	}
	return nil
}
