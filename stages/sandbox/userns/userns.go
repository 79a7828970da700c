// Package userns is how an ordinary user builds images with RUN: the program
// starts itself again as root of a user namespace, where it may mount and run
// containers, and has no right on the machine that the user does not have.
package userns

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// Mapping says which users of the machine a namespace has.
type Mapping struct {
	// Initial is set outside of any user namespace.
	Initial bool
	// Single is set when there is no user but root: owners cannot be changed.
	Single bool
	// Text is the mapping as the kernel tells it, on one line; it names the
	// owners that files on a disk have.
	Text string
}

// maxMapping bounds what is read of a mapping; the kernel allows 340 lines.
const maxMapping = 64 << 10

// Current is the mapping of this process, which never changes.
var Current = sync.OnceValue(func() Mapping {
	mapping := Mapping{Initial: true}
	for i, name := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		file, err := os.Open(name)
		if err != nil {
			return Mapping{Initial: true} // no kernel without user namespaces has it
		}
		raw, err := io.ReadAll(io.LimitReader(file, maxMapping))
		_ = file.Close() // only read from
		if err != nil {
			return Mapping{Initial: true}
		}
		lines := parseMapping(string(raw))
		mapping.Initial = mapping.Initial && len(lines) == 1 && lines[0] == [3]uint32{0, 0, 1<<32 - 1}
		mapping.Single = mapping.Single || len(lines) == 1 && lines[0][2] == 1
		if i > 0 {
			mapping.Text += " "
		}
		mapping.Text += formatMapping(lines)
	}
	return mapping
})

// parseMapping reads "inside outside count" lines; others are left out.
func parseMapping(text string) (lines [][3]uint32) {
	for line := range strings.Lines(text) {
		var l [3]uint32
		if n, err := fmt.Sscan(line, &l[0], &l[1], &l[2]); n == 3 && err == nil {
			lines = append(lines, l)
		}
	}
	return lines
}

func formatMapping(lines [][3]uint32) string {
	var parts []string
	for _, l := range lines {
		parts = append(parts, fmt.Sprintf("%d-%d-%d", l[0], l[1], l[2]))
	}
	return strings.Join(parts, ",")
}
