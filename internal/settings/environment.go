package settings

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/waves"
)

// Cluster is one of several of an environment.
type Cluster struct {
	Name       string `yaml:"name"`
	Kubeconfig string `yaml:"kubeconfig,omitempty"`
	Context    string `yaml:"context,omitempty"`
	Namespace  string `yaml:"namespace,omitempty"`
}

// Between is what must pass between two waves of clusters.
type Between struct {
	// Hold is how long the clusters that have moved must stay well.
	Hold time.Duration `yaml:"hold,omitempty"`
	// Approve are the people and groups one of whom must approve each wave but the
	// first; Timeout is how long that is waited for (24h when not set).
	Approve []string      `yaml:"approve,omitempty"`
	Timeout time.Duration `yaml:"timeout,omitempty"`
}

// RollbackWindow bounds rollbacks; zero fields set no bound.
type RollbackWindow struct {
	// Revisions counts releases before the present one, Age is since one was verified.
	Revisions int           `yaml:"revisions,omitempty"`
	Age       time.Duration `yaml:"age,omitempty"`
}

// The values of OnFailure.
const (
	RollBackAll = "roll-back"
	StopWaves   = "stop"
)

var clusterName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Plan is how the clusters move; empty for one cluster.
func (e Environment) Plan() waves.Plan {
	if len(e.Clusters) == 0 {
		return waves.Plan{}
	}
	p := waves.Plan{Waves: e.Waves, Hold: e.Between.Hold, ApprovalTimeout: e.Between.Timeout, KeepEarlier: e.OnFailure == StopWaves}
	if len(e.Between.Approve) > 0 {
		p.Approval = &rollout.ApprovalGate{From: e.Between.Approve}
	}
	if len(p.Waves) == 0 {
		for _, c := range e.Clusters {
			p.Waves = append(p.Waves, []string{c.Name})
		}
	}
	return p
}

func (e Environment) checkWaves() error {
	if len(e.Clusters) == 0 {
		if len(e.Waves) > 0 || e.Between.Hold != 0 || len(e.Between.Approve) > 0 || e.OnFailure != "" {
			return errors.New("waves, between-waves and on-failure need clusters")
		}
		return nil
	}
	if e.OnFailure != "" && e.OnFailure != RollBackAll && e.OnFailure != StopWaves {
		return fmt.Errorf("on-failure: %q: use %s or %s", e.OnFailure, RollBackAll, StopWaves)
	}
	if e.Between.Timeout < 0 || e.Between.Timeout > waves.MaxHold {
		return fmt.Errorf("between-waves: timeout %s: use up to %s", e.Between.Timeout, waves.MaxHold)
	}
	known := map[string]bool{}
	for i, c := range e.Clusters {
		if !clusterName.MatchString(c.Name) {
			return fmt.Errorf("clusters[%d]: name %q: use lower-case letters, digits and -", i, c.Name)
		}
		if known[c.Name] {
			return fmt.Errorf("clusters[%d]: the name %s is taken", i, c.Name)
		}
		for _, other := range e.Clusters[:i] {
			if c.Kubeconfig == other.Kubeconfig && c.Context == other.Context && c.Namespace == other.Namespace {
				return fmt.Errorf("clusters %s and %s are the same namespace of the same cluster", other.Name, c.Name)
			}
		}
		known[c.Name] = true
	}
	plan := e.Plan()
	if err := plan.Check(); err != nil {
		return err
	}
	moved := 0
	for i, wave := range plan.Waves {
		moved += len(wave)
		for _, name := range wave {
			if !known[name] {
				return fmt.Errorf("waves[%d]: there is no cluster %q", i, name)
			}
		}
	}
	if moved != len(e.Clusters) {
		return fmt.Errorf("waves name %d of %d clusters; name each once", moved, len(e.Clusters))
	}
	return nil
}

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
	if e.RollbackWindow.Revisions < 0 || e.RollbackWindow.Age < 0 {
		return errors.New("rollback-window: negative values make no sense")
	}
	if i := slices.Index(e.Deployers, ""); i >= 0 {
		return fmt.Errorf("deployers[%d] is empty", i)
	}
	return nil
}
