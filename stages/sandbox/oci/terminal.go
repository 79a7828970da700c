package oci

import (
	"os"
	"os/signal"
	"syscall"
)

// passSizes tells the runtime, which stands between a terminal and that of a
// container, when the terminal's size changes: in a session of its own it is not
// told by the kernel. The function returned ends that.
func passSizes(runtime *os.Process) func() {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for change := range changes {
			_ = runtime.Signal(change) // it may have ended
		}
	}()
	return func() {
		signal.Stop(changes)
		close(changes)
		<-done
	}
}
