package layer

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func knownFiles(t *rapid.T, label string) []KnownFile {
	var files []KnownFile
	for _, path := range rapid.SliceOfDistinct(rapid.StringMatching(`[a-c.-]{1,2}(/[a-c.-]{1,2}){0,2}`), rapid.ID).Draw(t, label) {
		files = append(files, KnownFile{Path: path, Stamp: stamp{Size: rapid.Int64().Draw(t, "size"), Modified: -5, Inode: rapid.Uint64().Draw(t, "inode")}})
	}
	return files
}

// Whatever the order of questions, the answers are those of a map.
func TestKnownIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, newer := knownFiles(t, "old"), knownFiles(t, "newer")
		want := map[string]KnownFile{}
		for _, f := range slices.Concat(old, newer) {
			want[f.Path] = f
		}
		data, err := (&Known{}).Merge(old, 1000).Merge(newer, 1000).MarshalRecord()
		require.NoError(t, err)
		var known Known
		require.NoError(t, known.UnmarshalRecord(data))
		look := known.finder()
		for range 30 {
			path := rapid.StringMatching(`[a-c.-]{1,2}(/[a-c.-]{1,2}){0,2}`).Draw(t, "path")
			expected, ok := want[path]
			found := look.find(path)
			require.Equal(t, ok, found != nil, path)
			if ok {
				require.Equal(t, expected, *found)
			}
		}
	})
}

func TestKnownIsBounded(t *testing.T) {
	var files []KnownFile
	for i := range 10 {
		files = append(files, KnownFile{Path: fmt.Sprint(i)})
	}
	merged := (&Known{}).Merge(files, 4)
	look := merged.finder()
	require.NotNil(t, look.find("3"))
	require.Nil(t, look.find("4"))
}

func FuzzKnown(f *testing.F) {
	data, _ := (&Known{}).Merge([]KnownFile{{Path: "a/b", Stamp: stamp{Size: 3}}, {Path: "c"}}, 10).MarshalRecord()
	f.Add(data)
	f.Fuzz(func(_ *testing.T, data []byte) {
		var known Known
		if known.UnmarshalRecord(data) == nil {
			known.finder().find("a/b")
			known.Merge([]KnownFile{{Path: "x"}}, 10)
		}
	})
}

func TestTableRecord(t *testing.T) {
	table := newTable()
	table.Nodes["a/b"] = Node{Type: '2', Mode: 0o777, UID: -1, GID: 1 << 30, Link: "../c"}
	table.Nodes[""] = Node{Type: '5', Mode: 0o755}
	table.Removed["gone"] = true
	table.Opaque["dir"] = true
	table.Implied["a"] = true
	table.Passwd, table.Group = []byte("root:x:0:0"), []byte{}
	data, err := table.MarshalRecord()
	require.NoError(t, err)
	var read Table
	require.NoError(t, read.UnmarshalRecord(data))
	require.Equal(t, table, &read)
	for n := range data {
		_ = new(Table).UnmarshalRecord(data[:n]) // broken ones are errors, not panics
	}
}

func FuzzTable(f *testing.F) {
	table := newTable()
	table.Nodes["a"] = Node{Type: '0', Link: "x"}
	table.Removed["b"] = true
	data, _ := table.MarshalRecord()
	f.Add(data)
	f.Fuzz(func(_ *testing.T, data []byte) { _ = new(Table).UnmarshalRecord(data) })
}
