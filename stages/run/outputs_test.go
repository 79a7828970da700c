package run

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/pipeline"
)

func TestParseOutputs(t *testing.T) {
	for _, test := range []struct {
		text string
		want pipeline.Outputs
		err  string
	}{
		{"", pipeline.Outputs{}, ""},
		{"a=1\n\nb=x=y\na=2\n", pipeline.Outputs{"a": "2", "b": "x=y"}, ""},
		{"note<<END\nline one\n\nk=v\nEND\nafter=1", pipeline.Outputs{"note": "line one\n\nk=v", "after": "1"}, ""},
		{"url=http://x/<<y", pipeline.Outputs{"url": "http://x/<<y"}, ""},
		{"empty=", pipeline.Outputs{"empty": ""}, ""},
		{"fine=1\nnonsense", nil, `line 2: want name=value or name<<END, found "nonsense"`},
		{"9x=1", nil, `line 1: "9x" is no name`},
		{"=1", nil, "line 1: an output's name"},
		{"n<<END\nvalue", nil, `line 1: no line "END" ends this value`},
		{"n<<\nvalue", nil, "line 1: name the word"},
		{"a=" + strings.Repeat("x", maxOutputBytes), nil, "more than"},
	} {
		got, err := parseOutputs(test.text)
		if test.err != "" {
			require.ErrorContains(t, err, test.err)
			continue
		}
		require.NoError(t, err, test.text)
		require.Equal(t, test.want, got)
	}
}

func TestOutputFileIsNeverFollowedElsewhere(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("key=hidden\n"), 0o600))
	link, pipe := filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	require.NoError(t, os.Symlink(secret, link))
	require.NoError(t, unix.Mkfifo(pipe, 0o600))
	for _, name := range []string{link, pipe, dir} {
		_, err := readOutputs(name)
		require.Error(t, err, name)
	}
	outputs, err := readOutputs(filepath.Join(dir, "missing"))
	require.NoError(t, err)
	require.Empty(t, outputs)
}

func FuzzParseOutputs(f *testing.F) {
	for _, seed := range []string{"a=1", "a<<E\nx\nE\n", "a<<", "=", "a\r\n=b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		outputs, err := parseOutputs(text)
		if err != nil {
			return
		}
		for name := range outputs {
			require.NoError(t, checkName(name))
		}
	})
}
