package pipeline

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever the bytes are, Parse answers: a pipeline that can be planned, or
// problems with places in the file.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/valid/*.yaml", "testdata/errors/*.yaml"} {
		files, err := filepath.Glob(pattern)
		require.NoError(f, err)
		for _, file := range files {
			data, err := os.ReadFile(file)
			require.NoError(f, err)
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("fuzz.yaml", data)
		if err != nil {
			var problems Errors
			require.True(t, errors.As(err, &problems))
			require.NotEmpty(t, problems)
			for _, problem := range problems {
				require.Positive(t, problem.Line)
				require.Positive(t, problem.Column)
				require.NotEmpty(t, problem.Message)
				require.NotEmpty(t, problem.Rule)
			}
			_ = problems.Render(data, true)
			return
		}
		plan, err := PlanFor(p, push("main"))
		if err != nil {
			require.Equal(t, CauseInvalid, CauseOf(err))
			return
		}
		_ = plan.Graph().Text()
		_ = p.Graph().SVG()
	})
}
