package userns

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGrants(t *testing.T) {
	for _, test := range []struct {
		text         string
		first, count uint32
		ok           bool
	}{
		{"", 0, 0, false},
		{"ann:100000:65536\nbob:165536:65536\n", 165536, 65536, true},
		{"1000:5000:10\nbob:7000:20", 7000, 20, true},
		{"bob:0:65536", 0, 0, false}, // the machine's root
		{"bob:4294967290:100", 0, 0, false},
		{"bob:100:0", 0, 0, false},
		{"bob:1:2:3\nbob:x:1\nbob:1:-5\n:1:5", 0, 0, false},
		{"bob:100000:4000000000", 100000, maxIDs, true},
	} {
		first, count, ok := parseGrants(strings.NewReader(test.text), "bob", "1000")
		require.Equal(t, test.ok, ok, test.text)
		require.Equal(t, [2]uint32{test.first, test.count}, [2]uint32{first, count}, test.text)
	}
}

func TestMappings(t *testing.T) {
	require.Equal(t, [][3]uint32{{0, 1000, 1}, {1, 100000, 65536}}, parseMapping("         0       1000          1\n         1     100000      65536\n"))
	require.Equal(t, "0-1000-1,1-100000-65536", formatMapping([][3]uint32{{0, 1000, 1}, {1, 100000, 65536}}))
	require.Empty(t, parseMapping("nonsense\n1 2\n"))
}

func FuzzGrants(f *testing.F) {
	f.Add("bob:100000:65536\n")
	f.Fuzz(func(t *testing.T, text string) {
		first, count, ok := parseGrants(strings.NewReader(text), "bob", "1000")
		if ok {
			require.NotZero(t, first)
			require.LessOrEqual(t, uint64(first)+uint64(count), uint64(1<<32-1))
		}
	})
}
