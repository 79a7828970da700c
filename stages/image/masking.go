package image

import (
	"io"

	"github.com/tidegate-ci/tidegate/internal/mask"
)

// newMasker knows a build's secrets, to keep them out of what commands print.
// Those that are too short to be told from other text, or too long, it leaves.
func newMasker(secrets map[string][]byte) *mask.Masker {
	known := map[string]string{}
	for id, value := range secrets {
		if mask.Check(id, string(value)) == nil {
			known[id] = string(value)
		}
	}
	masker, err := mask.New(known)
	if err != nil {
		return nil // each was checked
	}
	return masker
}

// maskedOutput is what a command prints, on its way to the log.
type maskedOutput struct {
	io.WriteCloser
	lines *lineWriter
}

func (r *stepRun) output(stream string, also io.Writer) *maskedOutput {
	lines := &lineWriter{step: r, stream: stream, also: also}
	return &maskedOutput{r.masker.Writer(lines), lines}
}

// Close sends on what is held back.
func (o *maskedOutput) Close() {
	_ = o.WriteCloser.Close() // lines take everything
	o.lines.Close()
}
