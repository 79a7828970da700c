package settings

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Allows tells whether a repository may deploy here.
func (e Environment) Allows(repository string) bool {
	return len(e.Repositories) == 0 || slices.ContainsFunc(e.Repositories, func(r string) bool { return strings.EqualFold(r, repository) })
}

// Protected tells whether only some branches and tags may be deployed here.
func (e Environment) Protected() bool { return len(e.Branches) > 0 || len(e.Tags) > 0 }

// checkRefs says which pattern of the environment can't be read: it would let nothing in.
func (e Environment) checkRefs() error {
	for key, patterns := range map[string][]string{"branches": e.Branches, "tags": e.Tags} {
		for i, pattern := range patterns {
			if pattern == "" || !doublestar.ValidatePattern(pattern) {
				return fmt.Errorf("%s[%d]: %q is no pattern; write a name, or release/* or release/**", key, i, pattern)
			}
		}
	}
	if i := slices.Index(e.Deployers, ""); i >= 0 {
		return fmt.Errorf("deployers[%d] is empty", i)
	}
	return nil
}
