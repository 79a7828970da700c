package plan

import "strings"

// environment is an ordered set of variables. It serves the Dockerfile's
// expansion as well as the environment of commands.
type environment struct {
	names  []string
	values map[string]string
}

func newEnvironment(pairs []string) *environment {
	e := &environment{values: map[string]string{}}
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		e.set(name, value)
	}
	return e
}

func (e *environment) clone() *environment {
	return newEnvironment(e.pairs())
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
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
