package rootfs

import (
	"sync"

	"github.com/tidegate-ci/tidegate/stages/sandbox/userns"
)

// form is how layers lie on a disk, which depends on what this process may do:
// in a user namespace overlayfs keeps its notes in attributes that need no
// privilege (Linux 5.11), and there are no devices but whiteouts.
type form struct {
	// notes is the prefix of overlayfs's own attributes.
	notes string
	// options of a mount keep what is written plain: every changed file whole and
	// under its own name in the upper directory, so that Diff needs to read nothing
	// else. They are overlayfs defaults that a kernel's build may have changed.
	options string
	// ordinary is set in a user namespace, single where it has one user alone: the
	// owner of a file is then noted at the file.
	ordinary, single bool
}

// disk is the form of this process, which never changes.
var disk = sync.OnceValue(func() form {
	m := userns.Current()
	if m.Initial {
		return form{notes: "trusted.overlay.", options: "redirect_dir=off,metacopy=off,index=off,xino=off"}
	}
	// userxattr turns the first two off by itself, and refuses to be told so where
	// the kernel was built to follow redirects.
	return form{notes: "user.overlay.", options: "userxattr,index=off,xino=off", ordinary: true, single: m.Single}
})

func (f form) opaque() string { return f.notes + "opaque" }
