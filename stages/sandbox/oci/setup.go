package oci

import (
	"fmt"
	"math"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

// sharedMemory is where programs expect it.
const sharedMemory = "/dev/shm"

// applySetup changes a container's specification as its command asks for.
func applySetup(spec *specs.Spec, setup sandbox.Setup) {
	for i := range spec.Mounts {
		if m := &spec.Mounts[i]; setup.SharedMemory > 0 && m.Destination == sharedMemory {
			for n, option := range m.Options {
				if strings.HasPrefix(option, "size=") {
					m.Options[n] = fmt.Sprintf("size=%d", setup.SharedMemory)
				}
			}
		}
	}
	for _, limit := range setup.Limits {
		spec.Process.Rlimits = append(spec.Process.Rlimits, specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(limit.Name), Soft: rlimit(limit.Soft), Hard: rlimit(limit.Hard),
		})
	}
}

func rlimit(n int64) uint64 {
	if n < 0 {
		return math.MaxUint64 // RLIM_INFINITY
	}
	return uint64(n)
}

// hostLines are the setup's entries of /etc/hosts.
func hostLines(hosts []sandbox.Host) string {
	var b strings.Builder
	for _, h := range hosts {
		fmt.Fprintf(&b, "%s\t%s\n", h.Address, h.Name)
	}
	return b.String()
}
