package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox/oci"
	"github.com/tidegate-ci/tidegate/stages/sandbox/userns"
)

// asRoot does the work of a command as root: by itself where the process is
// root, else in a user namespace by starting the program again. Where no
// namespace can be made, work is done as it is, and the reason is told if it
// fails for it.
func asRoot(work func() error) error {
	status, done, unavailable := userns.Enter()
	if done {
		if unavailable != nil || status == exitSuccess {
			return unavailable
		}
		return &exitError{code: status} // it has said why
	}
	err := work()
	if unavailable != nil && os.Geteuid() != 0 && (errors.Is(err, oci.ErrNoRuntime) || errors.Is(err, unix.EPERM)) {
		return fmt.Errorf("%w\n%w", err, unavailable)
	}
	return err
}
