// Package emulation decides whether this machine can run programs of a
// platform: by itself, or through an interpreter that the kernel knows from
// binfmt_misc.
package emulation

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Directory is where the kernel shows its handlers.
const Directory = "/proc/sys/fs/binfmt_misc"

// Handler is an entry of binfmt_misc, as the kernel's
// Documentation/admin-guide/binfmt-misc.rst describes it.
type Handler struct {
	Name        string
	Enabled     bool
	Interpreter string
	// Fixed is the F flag: the interpreter was opened when the handler was
	// registered, so that it works where the file itself cannot be seen.
	Fixed bool
	// Offset is where in a program's file Magic is looked for. Mask says which
	// of its bits count; nil means all.
	Offset      int
	Magic, Mask []byte
}

const (
	// maxHandlers and maxHandler (bytes) bound what is read; the kernel's own
	// limit for an entry is a page.
	maxHandlers = 1024
	maxHandler  = 16 << 10
)

// Handlers reads the kernel's handlers. None is no error, and neither is a
// kernel without binfmt_misc.
func Handlers(directory fs.FS) ([]Handler, error) {
	if status, err := read(directory, "status"); errors.Is(err, fs.ErrNotExist) || strings.TrimSpace(string(status)) == "disabled" {
		return nil, nil
	}
	entries, err := fs.ReadDir(directory, ".")
	if err != nil {
		return nil, fmt.Errorf("read handlers of foreign programs: %w", err)
	}
	var all []Handler
	for _, entry := range entries {
		if name := entry.Name(); name != "register" && name != "status" && len(all) < maxHandlers {
			text, err := read(directory, name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // unregistered just now
			}
			if err != nil {
				return nil, fmt.Errorf("read handler of foreign programs %s: %w", name, err)
			}
			// What cannot be read as a handler handles nothing.
			if h, err := ParseHandler(name, string(text)); err == nil {
				all = append(all, h)
			}
		}
	}
	return all, nil
}

func read(directory fs.FS, name string) ([]byte, error) {
	file, err := directory.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxHandler))
}

// ParseHandler reads what the kernel says of a handler.
func ParseHandler(name, text string) (Handler, error) {
	h := Handler{Name: name}
	for _, line := range strings.Split(text, "\n") {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		var err error
		switch key {
		case "enabled":
			h.Enabled = true
		case "interpreter":
			h.Interpreter = value
		case "flags:":
			h.Fixed = strings.Contains(value, "F")
		case "offset":
			h.Offset, err = strconv.Atoi(value)
		case "magic":
			h.Magic, err = hex.DecodeString(value)
		case "mask":
			h.Mask, err = hex.DecodeString(value)
		}
		if err != nil {
			return h, fmt.Errorf("handler %s: %s: %w", name, key, err)
		}
	}
	if h.Offset < 0 || len(h.Magic) == 0 || (h.Mask != nil && len(h.Mask) != len(h.Magic)) {
		return h, fmt.Errorf("handler %s is for file names, or none", name)
	}
	return h, nil
}

// takes tells whether the handler is for a program that begins with header.
func (h Handler) takes(header []byte) bool {
	if !h.Enabled || h.Offset+len(h.Magic) > len(header) {
		return false
	}
	at := header[h.Offset : h.Offset+len(h.Magic)]
	if h.Mask == nil {
		return bytes.Equal(at, h.Magic)
	}
	for i := range h.Magic {
		if (at[i]^h.Magic[i])&h.Mask[i] != 0 {
			return false
		}
	}
	return true
}

// Machine is where programs would run.
type Machine struct {
	// Platform is the machine's own, with the variant its processor has.
	Platform ocispec.Platform
	Handlers []Handler
}

// UnsupportedError says that programs of a platform do not run here, and what
// would make them.
type UnsupportedError struct {
	Machine, Platform ocispec.Platform
	// Why is what stands in the way, Remedy what to install.
	Why, Remedy string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("this machine (%s) can't run commands of %s: %s", platforms.Format(e.Machine), platforms.Format(e.Platform), e.Why)
}

// Check tells whether commands of the platform run here; nil means that they do.
func (m Machine) Check(p ocispec.Platform) error {
	if p.OS == m.Platform.OS && platforms.Only(m.Platform).Match(p) {
		return nil
	}
	fail := &UnsupportedError{Machine: m.Platform, Platform: p}
	program, known := programs[p.Architecture]
	switch {
	case p.OS != m.Platform.OS:
		fail.Why = "it is another operating system"
		fail.Remedy = "use only COPY, ADD and settings in its stages, and make files in a stage FROM --platform=$BUILDPLATFORM"
		return fail
	case p.Architecture == m.Platform.Architecture:
		fail.Why = "its processor lacks the instructions of " + p.Variant
		fail.Remedy = "build on a newer machine, or in a stage FROM --platform=$BUILDPLATFORM with a cross-compiler"
		return fail
	case !known:
		fail.Why = "the architecture is not known"
		fail.Remedy = "use FROM --platform=$BUILDPLATFORM and cross-compile"
		return fail
	}
	fail.Remedy = "install " + program.emulator + " (Debian and Ubuntu: apt-get install qemu-user-static binfmt-support), " +
		"or build in a stage FROM --platform=$BUILDPLATFORM with a cross-compiler"
	fail.Why = "the kernel has no handler for such programs in " + Directory
	for _, h := range m.Handlers {
		if !h.takes(program.header()) {
			continue
		}
		if h.Fixed {
			return nil
		}
		fail.Why = fmt.Sprintf("the kernel's handler %s (%s) lacks the F flag, so that it is not found within an image", path.Join(Directory, h.Name), h.Interpreter)
	}
	return fail
}
