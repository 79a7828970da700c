package deploy

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// place is a namespace of a cluster that belongs to an environment.
type place struct {
	// cluster is its name in the environment; empty when that has but one.
	cluster    string
	controller *rollout.Controller
	namespace  string
	// where is how the settings name the cluster.
	where Cluster
}

// same tells whether two places are one, as far as the settings' words tell.
func (p place) same(other place) bool {
	return p.namespace == other.namespace && p.where.Config == other.where.Config && p.where.Kubeconfig == other.where.Kubeconfig && p.where.Context == other.where.Context
}

// clusters lists those of an environment, one when it names none.
func (e Environment) clusters() []Cluster {
	if len(e.Clusters) == 0 {
		return []Cluster{{Config: e.Config, Kubeconfig: e.Kubeconfig, Context: e.Context, Namespace: e.Namespace}}
	}
	all := slices.Clone(e.Clusters)
	for i := range all {
		c := &all[i]
		if c.Config == nil && c.Kubeconfig == "" && c.Context == "" {
			c.Config, c.Context = e.Config, e.Context
		}
		c.Kubeconfig, c.Namespace = cmp.Or(c.Kubeconfig, e.Kubeconfig), cmp.Or(c.Namespace, e.Namespace)
	}
	return all
}

// places are where an environment is, each with its controller.
func (k *Kind) places(environment string) ([]place, error) {
	e, ok := k.options.Environments[environment]
	if !ok {
		known := cmp.Or(strings.Join(slices.Sorted(maps.Keys(k.options.Environments)), ", "), "none")
		return nil, pipeline.Fail(pipeline.CauseInvalid, "no environment is called %q; known: %s", environment, known)
	}
	var places []place
	for _, c := range e.clusters() {
		at, err := k.place(environment, e, c)
		if err != nil {
			return nil, err
		}
		places = append(places, at)
	}
	return places, nil
}

// place makes the controller of a cluster, shared by all attempts.
func (k *Kind) place(environment string, e Environment, c Cluster) (place, error) {
	name := environment
	if c.Name != "" {
		name += "/" + c.Name
	}
	at := place{cluster: c.Name, namespace: c.Namespace, where: c}
	config := c.Config
	if config == nil {
		rules := clientcmd.NewDefaultClientConfigLoadingRules()
		rules.ExplicitPath = c.Kubeconfig
		loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.Context})
		var err error
		if config, err = loader.ClientConfig(); err != nil {
			return at, pipeline.Fail(pipeline.CauseInfrastructure, "environment %s: reading its kubeconfig: %w", name, err)
		}
		if at.namespace == "" {
			if at.namespace, _, err = loader.Namespace(); err != nil {
				return at, pipeline.Fail(pipeline.CauseInfrastructure, "environment %s: reading its kubeconfig: %w", name, err)
			}
		}
	}
	at.namespace = cmp.Or(at.namespace, "default")
	k.mu.Lock()
	defer k.mu.Unlock()
	if at.controller = k.controllers[name]; at.controller != nil {
		return at, nil
	}
	options := rollout.Options{Log: k.options.Log.With(zap.String("environment", name)), Member: k.options.Member, PrivateWebhooks: e.PrivateWebhooks}
	if k.options.Notify != nil {
		options.Notify = func(record rollout.Record) { k.options.Notify(environment, record) }
	}
	if k.options.Receivers != nil {
		options.Receivers = k.options.Receivers(environment, c.Name)
	}
	var err error
	if at.controller, err = rollout.New(rollout.Cluster{Config: config}, options); err != nil {
		return at, pipeline.Fail(pipeline.CauseInfrastructure, "environment %s: %w", name, err)
	}
	k.controllers[name] = at.controller
	return at, nil
}

// resolvedOnce gives a tag the digest that it had when it was first asked for,
// so that all clusters of a deploy run the same.
type resolvedOnce struct {
	next manifest.Resolver

	mu    sync.Mutex
	known map[string]string
}

// Resolve implements manifest.Resolver.
func (r *resolvedOnce) Resolve(ctx context.Context, reference string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if full, ok := r.known[reference]; ok {
		return full, nil
	}
	full, err := r.next.Resolve(ctx, reference)
	if err == nil {
		r.known[reference] = full
	}
	return full, err
}
