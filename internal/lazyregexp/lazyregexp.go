// Package lazyregexp compiles regular expressions when they are first used. One
// with a counted repetition takes up to milliseconds, and a command that needs
// none of them starts that much earlier.
package lazyregexp

import (
	"regexp"
	"sync"
)

// New gives an expression that is compiled once, at its first use; it panics
// then if the pattern is not one.
func New(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}
