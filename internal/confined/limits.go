package confined

import (
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// confine bounds this process for the rest of its life.
func (b Bounds) confine() error {
	// The collector works harder before the limit of the kernel ends the process.
	debug.SetMemoryLimit(int64(b.Memory / 4 * 3))
	for limit, value := range map[int]uint64{unix.RLIMIT_CPU: b.CPU, unix.RLIMIT_DATA: b.Memory, unix.RLIMIT_CORE: 0, unix.RLIMIT_FSIZE: 0} {
		if err := unix.Setrlimit(limit, &unix.Rlimit{Cur: value, Max: value}); err != nil {
			return fmt.Errorf("setting limit %d: %w", limit, err)
		}
	}
	return nil
}
