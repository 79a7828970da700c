package image

import (
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/stages/image/cache"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

// setCaches gives a request the caches that a stage names. A fork reads what its
// repository's own builds made and writes nothing.
func setCaches(r *Request, spec *pipeline.BuildCacheSpec, e event.Event) {
	trusted := e.Trust == event.Own
	if !trusted {
		r.ReadScopes = []string{ownScope(e)}
	}
	if spec == nil {
		return
	}
	for _, name := range spec.From {
		r.CacheFrom = append(r.CacheFrom, cache.Spec{Kind: cache.Registry, Ref: cacheName(name, e)})
	}
	if !trusted {
		return
	}
	mode := cache.Max
	if spec.Mode == string(cache.Min) {
		mode = cache.Min
	}
	for _, name := range spec.To {
		r.CacheTo = append(r.CacheTo, cache.Spec{Kind: cache.Registry, Ref: cacheName(name, e), Mode: mode})
	}
}

// cacheTag is how much of a scope's hash makes a tag.
const cacheTag = 16

// cacheName adds a tag to a name without one: that of the scope of the
// repository's own builds, so that nobody reads another repository's cache by
// accident.
func cacheName(name string, e event.Event) string {
	if registry.HasTag(name) {
		return name
	}
	scope, _ := sha256Of([]byte(ownScope(e)))
	return name + ":cache-" + scope.Hex[:cacheTag]
}
