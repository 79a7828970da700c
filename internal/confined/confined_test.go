package confined

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// asked and told are those of a part that does what it is asked.
type asked struct{ Do string }

type told struct {
	Environment []string
	Trouble     string
}

var part = Part[asked, told]{Name: "tidegate-confined-test", Bounds: Bounds{Time: time.Minute, CPU: 2, Memory: 768 << 20, Output: 1 << 20}, Serve: serve}

func init() { part.Main() }

// kept is what a part eats.
var kept [][]byte

func serve(request asked) told {
	switch request.Do {
	case "loop":
		for i := 0; ; i++ {
			if i < 0 {
				i = 0
			}
		}
	case "eat":
		var all [][]byte
		for {
			all = append(all, []byte(strings.Repeat("x", 16<<20)))
			kept = all
		}
	case "panic elsewhere":
		done := make(chan struct{})
		go func() { defer close(done); panic("broken by a stranger") }()
		<-done
	case "answer without end":
		return told{Trouble: strings.Repeat("x", 2<<20)}
	case "print":
		fmt.Println("not part of the answer")
	case "fetch":
		_, err := http.Get("http://tidegate.example/secret?token=c4n4ry")
		return told{Trouble: err.Error()}
	case "write":
		// Past the limit of a file's size the kernel sends a signal; Go ignores that one.
		file, err := os.CreateTemp("/tmp", "")
		if err != nil {
			return told{Trouble: err.Error()}
		}
		defer os.Remove(file.Name())
		_, err = file.WriteString("x")
		return told{Trouble: fmt.Sprint(err)}
	}
	return told{Environment: os.Environ()}
}

func TestWhatAPartIsGiven(t *testing.T) {
	t.Setenv("TIDEGATE_SECRET", "c4n4ry")
	answer, err := part.Ask(t.Context(), asked{"print"})
	require.NoError(t, err)
	require.NotContains(t, strings.Join(answer.Environment, "\n"), "c4n4ry")
	answer, err = part.Ask(t.Context(), asked{"fetch"})
	require.NoError(t, err)
	require.Contains(t, answer.Trouble, "is not fetched")
	answer, err = part.Ask(t.Context(), asked{"write"})
	require.NoError(t, err)
	require.Contains(t, answer.Trouble, "file too large")
}

func TestAPartIsBounded(t *testing.T) {
	for do, want := range map[string]string{
		"loop":               "needed more than 2 s of processor time",
		"eat":                "768 MiB of memory, or failed",
		"panic elsewhere":    "broken by a stranger",
		"answer without end": ErrOutput.Error(),
	} {
		t.Run(do, func(t *testing.T) {
			t.Parallel()
			_, err := part.Ask(t.Context(), asked{do})
			require.ErrorContains(t, err, want)
		})
	}
}

func TestAPartEndsWithItsTimeAndItsContext(t *testing.T) {
	short := part
	short.Bounds.Time = time.Nanosecond
	_, err := short.Ask(t.Context(), asked{"loop"})
	require.ErrorIs(t, err, ErrTime)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = part.Ask(ended, asked{"loop"})
	require.ErrorIs(t, err, context.Canceled)
}
