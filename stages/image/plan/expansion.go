package plan

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

const (
	// maxValue bounds a variable, in bytes: what Linux takes for one string of
	// a program's environment (MAX_ARG_STRLEN).
	maxValue = 128 << 10
	// maxExpansion bounds what one word may expand to, in bytes.
	maxExpansion = 64 << 20
	// maxRecord bounds all that a stage's instructions write into the image's
	// configuration, in bytes: registries take little more.
	maxRecord = 8 << 20
)

var (
	errExpansion = errors.New("its variables expand to a text that is too long")
	errRecord    = fmt.Errorf("the stage's configuration and history get longer than %d bytes", maxRecord)
)

// bounded refuses a word before it is expanded if it may get too long: a few
// lines that double a variable would fill all memory.
func bounded(word string, env *environment) error {
	size := (len(word) + env.longest) * (strings.Count(word, "$") + 1)
	if strings.Contains(word, "${") && strings.Contains(word, "/") {
		size *= env.longest + 1 // ${A//a/b} may put b for every byte
	}
	if size > maxExpansion {
		return errExpansion
	}
	return nil
}

// process expands a word.
func (d *Document) process(word string, env *environment) (shell.ProcessWordResult, error) {
	if err := bounded(word, env); err != nil {
		return shell.ProcessWordResult{}, err
	}
	return d.lex().ProcessWordWithMatches(word, env)
}
