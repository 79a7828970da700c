package pipeline

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares text with a file of testdata, or writes it with -update.
func golden(t *testing.T, path, text string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), text)
}

// Each file of testdata/errors is wrong; its golden file holds every problem
// with file, line and column, and what a terminal shows.
func TestErrorsNamePlaceReasonAndSuggestion(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			p, err := Parse("ci.yaml", data)
			require.Nil(t, p)
			require.Equal(t, CauseInvalid, CauseOf(err))
			var problems Errors
			require.True(t, errors.As(err, &problems))
			golden(t, strings.TrimSuffix(file, ".yaml")+".golden", err.Error()+"\n\n"+problems.Render(data, false))
		})
	}
}
