// Command calls makes system calls that no container may make and tells as JSON
// how the kernel answered each.
package main

import (
	"encoding/json"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	runtime.LockOSThread()
	word := uintptr(unsafe.Pointer(&[64]byte{}))
	answers := map[string]string{}
	for name, call := range map[string][4]uintptr{
		"keyctl":          {unix.SYS_KEYCTL, 0, ^uintptr(2) + 0, 0}, // the id of the session's keyring
		"add_key":         {unix.SYS_ADD_KEY, word, word, word},
		"userfaultfd":     {unix.SYS_USERFAULTFD, 1},
		"io_uring_setup":  {unix.SYS_IO_URING_SETUP, 1, word},
		"unshare":         {unix.SYS_UNSHARE, unix.CLONE_NEWUSER},
		"bpf":             {unix.SYS_BPF, 0, word, 0},
		"perf_event_open": {unix.SYS_PERF_EVENT_OPEN, word, 0, 0},
		"kcmp":            {unix.SYS_KCMP, 1, 1, 99},
	} {
		_, _, errno := syscall.Syscall6(call[0], call[1], call[2], call[3], 0, 0, 0)
		answers[name] = errno.Error()
	}
	_ = json.NewEncoder(os.Stdout).Encode(answers)
}
