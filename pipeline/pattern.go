package pipeline

import (
	"regexp"
	"sync"
)

// pattern is a regular expression that is compiled when first needed:
// repetitions make large programs, and most commands need none of them.
type pattern struct {
	text     string
	compiled func() *regexp.Regexp
}

func newPattern(text string) *pattern {
	return &pattern{text, sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })}
}

func (p *pattern) MatchString(text string) bool { return p.compiled().MatchString(text) }
func (p *pattern) String() string               { return p.text }
