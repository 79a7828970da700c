package worker

import (
	"github.com/tidegate-ci/tidegate/internal/settings"
	imagepolicy "github.com/tidegate-ci/tidegate/stages/image/policy"
)

// imagePolicy reads which images builds may use, once: a file that is wrong
// keeps the server from starting, not from checking.
func imagePolicy(b settings.Build) (*imagepolicy.Policy, error) {
	if b.Policy == "" {
		return nil, nil
	}
	return imagepolicy.Load(b.Policy)
}
