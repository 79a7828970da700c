package plan

import (
	"maps"
	"slices"
	"strings"
)

// environment is an ordered set of variables. It serves the Dockerfile's
// expansion as well as the environment of commands.
type environment struct {
	names  []string
	values map[string]string
	// private are those whose value the command line gave, or that were made
	// from such: history must not have them.
	private map[string]bool
	// longest is at least the length of every value.
	longest int
}

func newEnvironment(pairs []string) *environment {
	e := &environment{values: map[string]string{}, private: map[string]bool{}}
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		e.set(name, value)
	}
	return e
}

func (e *environment) clone() *environment {
	return &environment{names: slices.Clone(e.names), values: maps.Clone(e.values), private: maps.Clone(e.private), longest: e.longest}
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
	e.longest = max(e.longest, len(value))
	delete(e.private, name)
}

func (e *environment) setArgument(name, value string, private bool) {
	e.set(name, value)
	if private {
		e.private[name] = true
	}
}

// anyPrivate tells whether one of the names is private.
func (e *environment) anyPrivate(names map[string]struct{}) bool {
	for name := range names {
		if e.private[name] {
			return true
		}
	}
	return false
}

// Get and Keys make it a shell.EnvGetter.
func (e *environment) Get(name string) (string, bool) {
	value, ok := e.values[name]
	return value, ok
}

func (e *environment) Keys() []string { return e.names }

func (e *environment) pairs() []string {
	pairs := make([]string, 0, len(e.names))
	for _, name := range e.names {
		pairs = append(pairs, name+"="+e.values[name])
	}
	return pairs
}

// setPair replaces a variable of an image configuration in place.
func setPair(pairs []string, name, value string) []string {
	for i, pair := range pairs {
		if n, _, _ := strings.Cut(pair, "="); n == name {
			pairs[i] = name + "=" + value
			return pairs
		}
	}
	return append(pairs, name+"="+value)
}
