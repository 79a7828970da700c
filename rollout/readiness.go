package rollout

import (
	"fmt"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// MaxReadiness is how many rules a release may have.
const MaxReadiness = 50

// Readiness says when the custom resources of a kind are ready, in place of
// what their conditions say. An object whose controller has not seen its newest
// generation is never ready.
type Readiness struct {
	// Kind of the objects: "Database", or with its group "Database.example.com".
	Kind string `json:"kind"`
	// Ready and Failed are CEL expressions over object, the whole object. What
	// cannot be told (a field that is not there) is neither. Failed may be empty.
	Ready  string `json:"ready"`
	Failed string `json:"failed,omitempty"`
}

// Check tells what is wrong with the rule.
func (r Readiness) Check() error {
	if r.Kind == "" || strings.ContainsAny(r.Kind, " /:\t\n") {
		return fmt.Errorf("%w: a rule of readiness for kind %q: write it like Database or Database.example.com", ErrInvalid, r.Kind)
	}
	if r.Ready == "" {
		return fmt.Errorf("%w: the rule of readiness for %s does not say when it is ready", ErrInvalid, r.Kind)
	}
	if _, err := r.compile(); err != nil {
		return fmt.Errorf("%w: the rule of readiness for %s: %w", ErrInvalid, r.Kind, err)
	}
	return nil
}

func checkReadiness(rules []Readiness) error {
	if len(rules) > MaxReadiness {
		return fmt.Errorf("%w: %d rules of readiness; at most %d", ErrInvalid, len(rules), MaxReadiness)
	}
	seen := map[string]bool{}
	for _, rule := range rules {
		if err := rule.Check(); err != nil {
			return err
		}
		if seen[rule.Kind] {
			return fmt.Errorf("%w: two rules say when a %s is ready; join them with || or &&", ErrInvalid, rule.Kind)
		}
		seen[rule.Kind] = true
	}
	return nil
}

// of tells whether the rule is for such objects.
func (r Readiness) of(ref manifest.Ref) bool {
	kind := ref.GroupVersionKind().GroupKind()
	return r.Kind == kind.Kind || r.Kind == kind.String()
}

var readinessEnvironment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(cel.Variable("object", cel.DynType))
})

// compiledRule is a rule that can be asked.
type compiledRule struct {
	Readiness
	ready, failed cel.Program // failed is nil when there is none
}

var _ health.Rule = (*compiledRule)(nil)

func (r Readiness) compile() (*compiledRule, error) {
	environment, err := readinessEnvironment()
	if err != nil {
		return nil, fmt.Errorf("prepare CEL: %w", err)
	}
	compiled := &compiledRule{Readiness: r}
	if compiled.ready, err = compileTruth(environment, r.Ready); err != nil {
		return nil, err
	}
	if r.Failed != "" {
		if compiled.failed, err = compileTruth(environment, r.Failed); err != nil {
			return nil, err
		}
	}
	return compiled, nil
}

// Judge implements health.Rule.
func (r *compiledRule) Judge(object map[string]any) (health.Status, string) {
	if r.failed != nil {
		if yes, err := holds(r.failed, object); err == nil && yes {
			return health.Failed, r.Failed + " is true"
		}
	}
	yes, err := holds(r.ready, object)
	switch {
	case err != nil:
		return health.Progressing, fmt.Sprintf("%s: %s", r.Ready, err)
	case yes:
		return health.Ready, r.Ready + " is true"
	}
	return health.Progressing, r.Ready + " is false"
}

func holds(program cel.Program, object map[string]any) (bool, error) {
	value, _, err := program.Eval(map[string]any{"object": object})
	if err != nil {
		return false, err
	}
	yes, ok := value.(types.Bool)
	if !ok {
		return false, fmt.Errorf("it gives a %s, and must give true or false", value.Type())
	}
	return bool(yes), nil
}

// ruleCache keeps the rules of a rollout compiled.
type ruleCache map[Readiness]*compiledRule

// of finds the rule for an object; nil means that its conditions tell.
func (c ruleCache) of(r *Rollout, ref manifest.Ref) health.Rule {
	for _, rule := range r.Readiness {
		if !rule.of(ref) {
			continue
		}
		compiled, known := c[rule]
		if !known {
			compiled, _ = rule.compile() // was checked when the release was asked for
			c[rule] = compiled
		}
		if compiled != nil {
			return compiled
		}
	}
	return nil
}
