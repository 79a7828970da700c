package main

import (
	"github.com/spf13/pflag"

	"github.com/tidegate-ci/tidegate/stages/image"
	"github.com/tidegate-ci/tidegate/stages/image/cache"
)

// buildCacheFlags say which caches of other machines a build reads and writes.
type buildCacheFlags struct{ cacheFrom, cacheTo []string }

func (f *buildCacheFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.cacheFrom, "cache-from", nil, "cache to read: type=registry,ref=NAME (a cache, or an image with an inline one), type=local,src=DIR, or a name; may be repeated")
	flags.StringArrayVar(&f.cacheTo, "cache-to", nil, "cache to write: type=registry,ref=NAME[,mode=max], type=local,dest=DIR[,mode=max] or type=inline; may be repeated")
}

func (f *buildCacheFlags) caches(r *image.Request) error {
	for _, text := range f.cacheFrom {
		spec, err := cache.ParseFrom(text)
		if err != nil {
			return usageErrorf("--cache-from: %w", err)
		}
		r.CacheFrom = append(r.CacheFrom, spec)
	}
	for _, text := range f.cacheTo {
		spec, err := cache.ParseTo(text)
		if err != nil {
			return usageErrorf("--cache-to: %w", err)
		}
		r.CacheTo = append(r.CacheTo, spec)
	}
	return nil
}
