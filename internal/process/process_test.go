package process

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestProcessThatIsStopped(t *testing.T) {
	p, err := Start(t.Context(), filepath.Join(t.TempDir(), "log"), "cat", "/dev/zero")
	require.NoError(t, err)
	require.Positive(t, p.PID())
	late := errors.New("late")
	require.Equal(t, late, p.With(late), "it runs, so that it is not the cause")
	require.NoError(t, p.With(nil))
	p.Stop()
	p.Stop() // repeats harmlessly
}

func TestProcessThatEndedIsTheCause(t *testing.T) {
	p, err := Start(t.Context(), filepath.Join(t.TempDir(), "log"), "sh", "-c", "echo out of cheese; exit 3")
	require.NoError(t, err)
	<-p.exited
	late := errors.New("late")
	err = p.With(late)
	require.ErrorIs(t, err, late)
	require.ErrorContains(t, err, "out of cheese")
}

func TestProgramThatIsNotThere(t *testing.T) {
	_, err := Start(t.Context(), filepath.Join(t.TempDir(), "log"), "/nonexistent")
	require.ErrorContains(t, err, "/nonexistent")
}
