package image

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
)

// keyed is all that a key is made of; a field added to a recipe is in it by itself.
type keyed struct {
	Setting   setting
	Directory plan.Directory
	Copy      plan.Copy
	Run       plan.Run
	Network   bool
	From      origin
	Mounts    [1]origin
}

func (k keyed) keys() [3]v1.Hash {
	mounts := append(k.Mounts[:], make([]origin, len(k.Run.Mounts))...)
	return [3]v1.Hash{
		directoryKey(k.Setting, &k.Directory), copyKey(k.Setting, &k.Copy, k.From), runKey(k.Setting, &k.Run, k.Network, mounts),
	}
}

func sample() keyed {
	hash := func(n int) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%064d", n)} }
	mode := uint64(0o755)
	item := layer.Item{Path: "p", Target: "t", Top: true, Node: layer.Node{Type: '0', Mode: 0o644, UID: 1, GID: 2, Link: "l"}, Size: 3, Digest: layer.Sum{1}}
	return keyed{
		Setting:   setting{Codec: layer.Gzip, Epoch: time.Unix(5, 0), Platform: ocispec.Platform{OS: "linux", Architecture: "amd64", Variant: "v"}, Chain: []v1.Hash{hash(2)}},
		Directory: plan.Directory{Path: "/d", User: "u"},
		Copy: plan.Copy{
			From: plan.Source{Kind: plan.FromContext}, Sources: []string{"a"}, Inline: []plan.InlineFile{{Name: "n", Data: "d"}}, Dest: "/x",
			Chown: "1", Chmod: "644", Exclude: []string{"e"},
		},
		Run: plan.Run{
			Args: []string{"a"}, Env: []string{"A=b"}, Unkeyed: []string{"P=q"}, Dir: "/", User: "u", Script: &plan.InlineFile{Name: "n", Data: "d"},
			Mounts: []plan.Mount{{
				Kind: plan.MountBind, From: plan.Source{Kind: plan.FromContext}, Source: "s", Target: "/t", Size: 1, CacheID: "c", Sharing: "shared",
				SecretID: "i", SecretEnv: "V", Mode: &mode, UID: 1, GID: 2,
			}},
		},
		From:   origin{Items: []layer.Item{item}, Chain: []v1.Hash{hash(3)}},
		Mounts: [1]origin{{Items: []layer.Item{item}, Chain: []v1.Hash{hash(4)}}},
	}
}

// undecided are fields that decide nothing about a layer's bytes: where a file
// is on this machine, what is said by the layers' digests, what by contract is
// left out.
var undecided = map[string]bool{
	"Run.Unkeyed": true, "Run.HostNetwork": true, "Run.Offline": true,
	"Copy.From.Stage": true, "Copy.From.Reference": true, "Copy.From.Platform": true,
	"Run.Mounts.From.Stage": true, "Run.Mounts.From.Reference": true, "Run.Mounts.From.Platform": true,
	"From.Items.Path": true, "Mounts.Items.Path": true, "From.Items.stamp": true, "From.Items.inode": true, "Mounts.Items.inode": true, "Mounts.Items.stamp": true,
	"Setting.Platform.OSVersion": true, "Setting.Platform.OSFeatures": true,
	"Setting.Chain.Algorithm": true, "From.Chain.Algorithm": true, "Mounts.Chain.Algorithm": true,
}

// mutations changes every leaf of a value, one at a time.
func mutations(path string, v reflect.Value, check func(path string)) {
	if undecided[path] {
		return
	}
	change := func(to reflect.Value) {
		old := reflect.New(v.Type()).Elem()
		old.Set(v)
		v.Set(to)
		check(path)
		v.Set(old)
	}
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeOf(time.Time{}) {
			change(reflect.ValueOf(time.Unix(6, 0)))
			return
		}
		for i := range v.NumField() {
			field := path
			if f := v.Type().Field(i); !f.Anonymous {
				field = path + "." + f.Name
				if path == "" {
					field = f.Name
				}
			}
			mutations(field, v.Field(i), check)
		}
	case reflect.Slice:
		change(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		for i := range v.Len() {
			mutations(path, v.Index(i), check)
		}
	case reflect.Array:
		for i := range v.Len() {
			mutations(path, v.Index(i), check)
		}
	case reflect.Pointer:
		if v.IsNil() {
			change(reflect.New(v.Type().Elem()))
			return
		}
		mutations(path, v.Elem(), check)
		change(reflect.Zero(v.Type()))
	case reflect.Map:
		more := reflect.MakeMap(v.Type())
		for _, key := range v.MapKeys() {
			more.SetMapIndex(key, v.MapIndex(key))
		}
		more.SetMapIndex(reflect.ValueOf("more").Convert(v.Type().Key()), reflect.Zero(v.Type().Elem()))
		change(more)
	case reflect.String:
		change(reflect.ValueOf(v.String() + "x").Convert(v.Type()))
	case reflect.Bool:
		change(reflect.ValueOf(!v.Bool()))
	case reflect.Int, reflect.Int64, reflect.Int32:
		change(reflect.ValueOf(v.Int() + 1).Convert(v.Type()))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		change(reflect.ValueOf(v.Uint() + 1).Convert(v.Type()))
	default:
		panic("a kind of field this test does not know: " + path + " " + v.Kind().String())
	}
}

func TestEveryFieldThatMattersIsInTheKey(t *testing.T) {
	k := sample()
	before := k.keys()
	require.Equal(t, before, sample().keys(), "equal input, equal key")
	count := 0
	mutations("", reflect.ValueOf(&k).Elem(), func(path string) {
		count++
		require.NotEqual(t, before, k.keys(), "%s changes no key", path)
	})
	require.Equal(t, before, k.keys())
	require.Greater(t, count, 60)
}

func TestFieldsDoNotRunIntoEachOther(t *testing.T) {
	a := newKeyer("x")
	a.text("a", "bc")
	b := newKeyer("x")
	b.text("ab", "c")
	require.NotEqual(t, a.sum(), b.sum())
	one, two := sample(), sample()
	one.Copy.Sources, one.Copy.Exclude = []string{"a", "b"}, nil
	two.Copy.Sources, two.Copy.Exclude = []string{"a"}, []string{"b"}
	require.NotEqual(t, one.keys()[1], two.keys()[1])
}

func TestWhatDecidesNothingIsNotInTheKey(t *testing.T) {
	k := sample()
	before := k.keys()
	k.Run.Unkeyed = []string{"HTTP_PROXY=other"}
	require.Equal(t, before, k.keys())
}
