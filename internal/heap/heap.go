// Package heap paces the garbage collector of a short-lived command.
package heap

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// floor is the heap below which nothing is collected: most commands end
	// before they fill it.
	floor = 24 << 20
	// middling is the live heap up to which memory matters more than the time
	// that collecting takes: most of what a process this small uses is its heap.
	middling = 64 << 20
)

// percent is by how much a heap may grow before it is collected, as GOGC says
// it, after a collection that left live bytes.
func percent(live uint64) int {
	growth := 40
	if live > middling {
		growth = 100
	}
	if live = max(live, 1<<20); live+live*uint64(growth)/100 < floor {
		growth = int((floor - live) * 100 / live)
	}
	return growth
}

// Pace lets a small heap grow without collections, and collects one of some
// tens of megabytes more often than Go does by itself, which keeps the peak of
// a command that holds many small things low. Larger ones are Go's business. It
// works to the end of the process, and does nothing where GOGC is set.
func Pace() {
	if _, set := os.LookupEnv("GOGC"); set {
		return
	}
	adjust()
}

// adjust sets the percentage for the heap as it is, and again after the next
// collection: that is when the mark, which nothing refers to, goes.
func adjust() {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	debug.SetGCPercent(percent(sample[0].Value.Uint64()))
	runtime.SetFinalizer(&mark{}, func(*mark) { adjust() })
}

// mark is not of size zero: the runtime promises nothing for the finalizers of
// such, nor for tiny objects without pointers.
type mark struct{ _ *byte }
