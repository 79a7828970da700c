package image

import (
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

func TestParseSetup(t *testing.T) {
	for text, want := range map[string]sandbox.Host{
		"db:10.0.0.1": {Name: "db", Address: "10.0.0.1"}, "db=10.0.0.1": {Name: "db", Address: "10.0.0.1"}, "a.b:[::1]": {Name: "a.b", Address: "::1"},
		"db:::1": {Name: "db", Address: "::1"}, "docker:host-gateway": {Name: "docker", Address: "127.0.0.1"},
	} {
		got, err := ParseHost(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"db", "db:", ":1.1.1.1", "db:x", "a b:1.1.1.1", "a\n1.1.1.1 b:1.1.1.1", "db:fe80::1%eth0", "-a:1.1.1.1"} {
		_, err := ParseHost(text)
		require.Error(t, err, text)
	}
	limit, err := ParseLimit("nofile=100:200")
	require.NoError(t, err)
	require.Equal(t, sandbox.Limit{Name: "nofile", Soft: 100, Hard: 200}, limit)
	limit, err = ParseLimit("core=-1")
	require.NoError(t, err)
	require.Equal(t, sandbox.Limit{Name: "core", Soft: -1, Hard: -1}, limit)
	for _, text := range []string{"nofile", "files=1", "nofile=2:1", "nofile=x"} {
		_, err := ParseLimit(text)
		require.ErrorContains(t, err, "NAME=SOFT", text)
	}
	n, err := ParseBytes("128m")
	require.NoError(t, err)
	require.EqualValues(t, 128<<20, n)
	for _, text := range []string{"", "0", "x", "-1"} {
		_, err := ParseBytes(text)
		require.Error(t, err, text)
	}
}

func FuzzParseHost(f *testing.F) {
	f.Add("db:10.0.0.1")
	f.Add("db=[::1]")
	f.Fuzz(func(t *testing.T, text string) {
		if h, err := ParseHost(text); err == nil {
			require.False(t, strings.ContainsAny(h.Name+h.Address, " \t\r\n#"), "a line of /etc/hosts of its own: %q", text)
		}
	})
}

func TestTheSetupIsInTheKey(t *testing.T) {
	key := v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}
	require.Equal(t, key, withSetup(key, sandbox.Setup{}))
	seen := map[v1.Hash]bool{}
	for _, s := range []sandbox.Setup{
		{}, {SharedMemory: 1}, {Hosts: []sandbox.Host{{Name: "a", Address: "1"}}}, {Hosts: []sandbox.Host{{Name: "a1"}}},
		{Limits: []sandbox.Limit{{Name: "a", Soft: 1}}}, {Limits: []sandbox.Limit{{Name: "a", Hard: 1}}}, {Limits: []sandbox.Limit{{Name: "b", Hard: 1}}},
	} {
		seen[withSetup(key, s)] = true
	}
	require.Len(t, seen, 7)
}

func TestCommandsRunInTheSetup(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	request := b.request(map[string]string{
		"Dockerfile": "FROM busybox AS base\nRUN grep db /etc/hosts; ulimit -n; df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2\nFROM base AS other\nRUN echo other\n",
	})
	request.Setup = sandbox.Setup{
		Hosts: []sandbox.Host{{Name: "db", Address: "10.0.0.1"}}, SharedMemory: 3 << 20, Limits: []sandbox.Limit{{Name: "nofile", Soft: 123, Hard: 456}},
	}
	result := b.build(request)
	require.Equal(t, "10.0.0.1\tdb\n123\n3072\nother", b.logs())
	image := b.pulled(result)
	layers, err := image.Layers()
	require.NoError(t, err)
	require.NotContains(t, strings.Join(b.files(layers), "\n"), "10.0.0.1", "the entry is not the image's")

	b.events = nil
	request.NoCacheStages = []string{"OTHER"}
	again := b.build(request)
	require.Equal(t, "other", b.logs(), "only that stage is made anew")
	require.Equal(t, 1, again.Stats.Cached)
	b.events = nil
	request.NoCacheStages, request.Setup = nil, sandbox.Setup{}
	b.build(request)
	require.NotContains(t, b.logs(), "10.0.0.1")
	require.NotEmpty(t, b.logs(), "another setup is another step")
}
