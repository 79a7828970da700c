// Package sandbox defines where commands of a stage run. Implementations:
// host (a process of this machine) and oci (a container through runc or crun).
package sandbox

import (
	"context"
	"fmt"
	"io"
	"os"
)

// Mount makes a directory or file of the host visible inside the sandbox.
type Mount struct {
	Source   string // absolute, on the host; below Within, if that is set
	Target   string // absolute, inside
	ReadOnly bool
	// Within is a directory of the host that Source must not lead out of: links
	// are followed as if it were the root, whatever others change meanwhile.
	Within string
	// Content makes the mount a file that is in memory only and gone with the
	// container, for secrets; Source is not used then. The file is read-only.
	Content *Content
	// Memory mounts an empty filesystem in memory in place of Source; it holds
	// Size bytes, or if that is 0 what Linux gives (half of the memory). It counts
	// as the command's memory.
	Memory bool
	Size   int64
}

// Content is a file made for one container.
type Content struct {
	Data     []byte
	UID, GID int
	Mode     os.FileMode // permission bits
}

// Command is one command to run.
type Command struct {
	// Args is the argument vector; Args[0] is looked up in PATH of Env.
	Args []string
	// Dir is absolute, inside the sandbox.
	Dir string
	// Env is complete: nothing is inherited from the server's environment.
	Env            map[string]string
	Stdin          io.Reader // nil: empty
	Stdout, Stderr io.Writer // nil: discarded
	Mounts         []Mount   // ignored by the host sandbox
	// User is "uid", "uid:gid", "name" or "name:group" of the root filesystem;
	// empty means root. Ignored by the host sandbox.
	User string
	// HostNetwork shares the host's network; false means loopback only.
	HostNetwork bool
	// Setup is ignored by the host sandbox.
	Setup Setup
	// Terminal, if not nil, is a terminal that the command talks to through one of
	// its own, in place of Stdin, Stdout and Stderr. Ignored by the host sandbox.
	Terminal *os.File
}

// Sandbox runs commands. Run returns nil for exit status 0, an *ExitError when
// the command ran and failed, any other error when it could not be run. When
// ctx ends, the command and all that it started are gone before Run returns.
type Sandbox interface {
	Run(ctx context.Context, command Command) error
}

// ExitError is the end of a command that did not succeed.
type ExitError struct {
	Code   int    // exit status, 128+signal when killed by one
	Signal string // such as "killed", empty if it exited
	// OutOfMemory is set when the memory limit ended it.
	OutOfMemory bool
}

func (e *ExitError) Error() string {
	switch {
	case e.OutOfMemory:
		return "out of memory: the command was killed at its memory limit"
	case e.Signal != "":
		return fmt.Sprintf("killed by signal: %s", e.Signal)
	}
	return fmt.Sprintf("exit status %d", e.Code)
}
