package emulation

import (
	"os"
	"runtime"

	"github.com/containerd/platforms"
	"github.com/tonistiigi/go-archvariant"
)

// ThisMachine finds out what this machine runs.
func ThisMachine() (Machine, error) {
	p := platforms.DefaultSpec()
	if runtime.GOARCH == "amd64" {
		// The level of the instruction set: v1 to v4.
		p.Variant = archvariant.AMD64Variant()
	}
	handlers, err := Handlers(os.DirFS(Directory))
	return Machine{Platform: platforms.Normalize(p), Handlers: handlers}, err
}
