package image

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/image/cache"
)

const mountedDockerfile = `FROM busybox
ARG N
RUN --mount=type=cache,target=/c echo "$N" >> /c/log && cat /c/log
`

func TestCacheMountsTravelWithTheCache(t *testing.T) {
	for _, where := range []string{"type=registry,ref=shop/cache:main", "type=local,DIR=" + t.TempDir()} {
		b := newBench(t).withRunc()
		b.busybox(nil)
		request := b.request(map[string]string{"Dockerfile": mountedDockerfile})
		request.Args = map[string]string{"N": "first"}
		request.CacheTo = specs(t, cache.ParseTo, strings.Replace(where, "DIR", "dest", 1)+",mounts=true")
		b.build(request)

		b.freshMachine(true)
		request.Args["N"] = "second"
		request.CacheTo, request.CacheFrom = nil, specs(t, cache.ParseFrom, strings.Replace(where, "DIR", "src", 1))
		b.build(request)
		require.Equal(t, "first\nsecond", b.logs())
		b.events = nil
		request.Args["N"] = "third"
		b.build(request)
		require.Equal(t, "first\nsecond\nthird", b.logs(), "what is here is not replaced")

		b.freshMachine(true)
		request.Args["N"] = "fork"
		request.Scope, request.Push = forkScope+"github octo/shop 1", false
		request.ReadScopes = []string{""}
		b.build(request)
		require.Equal(t, "fork", b.logs(), "a fork is not given what others may run")
	}
}

func TestACacheMountThatCannotBeHadBeginsEmpty(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	request := b.request(map[string]string{"Dockerfile": mountedDockerfile})
	request.Args = map[string]string{"N": "first"}
	request.CacheTo = specs(t, cache.ParseTo, "type=registry,ref=shop/cache:main,mounts=true,mode=min")
	b.build(request)
	b.freshMachine(true)
	request.Args["N"] = "second"
	request.CacheTo, request.CacheFrom = nil, specs(t, cache.ParseFrom, "shop/cache:main")
	fetched := 0
	b.peer.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasPrefix(r.URL.Path, "/v2/shop/cache/blobs/") {
			return false
		}
		if fetched++; fetched > 1 { // the first is the document
			_, _ = w.Write([]byte("forged"))
			return true
		}
		return false
	}
	b.build(request)
	require.Equal(t, "second", b.logs())
}
