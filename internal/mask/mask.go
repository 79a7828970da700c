// Package mask keeps secrets out of what is recorded. A Masker knows secrets
// and the forms they take when programs print them: plain, line by line,
// base64 at any alignment, URL-encoded, hexadecimal, escaped for JSON or shell.
package mask

import (
	"fmt"
	"io"
	"sort"
	"strings"
)

// Replacement stands for every masked stretch.
const Replacement = "***"

const (
	// MinLength is the length, in bytes without surrounding space, below which
	// a secret is refused: masking it would tear ordinary text apart, and not
	// masking it would leak.
	MinLength = 4
	// MaxLength bounds one secret, in bytes.
	MaxLength = 64 << 10
)

// Masker replaces secrets in text. It is immutable and safe for concurrent
// use; nil knows no secrets and changes nothing.
type Masker struct{ nodes *automaton }

// New returns a Masker for secrets by name. An empty value needs no masking. A
// value that is too short or too long is an error, which names the secret and
// never shows its value.
func New(secrets map[string]string) (*Masker, error) {
	names := make([]string, 0, len(secrets))
	for name := range secrets {
		names = append(names, name)
	}
	sort.Strings(names)
	var patterns []string
	for _, name := range names {
		value := secrets[name]
		if value == "" {
			continue
		}
		if err := Check(name, value); err != nil {
			return nil, err
		}
		patterns = append(patterns, forms(value)...)
	}
	if len(patterns) == 0 {
		return nil, nil
	}
	return &Masker{nodes: build(patterns)}, nil
}

// Check tells whether a secret can be masked; use it when one is configured.
func Check(name, value string) error {
	switch n := len(strings.TrimSpace(value)); {
	case n < MinLength:
		return fmt.Errorf("secret %q has %d characters; at least %d are needed, because a shorter one cannot be masked in logs: use a longer value, or a plain variable if it is not secret", name, n, MinLength)
	case len(value) > MaxLength:
		return fmt.Errorf("secret %q has %d bytes; at most %d are supported", name, len(value), MaxLength)
	}
	return nil
}

// String returns text with secrets replaced.
func (m *Masker) String(text string) string {
	if m == nil || text == "" {
		return text
	}
	var out strings.Builder
	w := m.Writer(&out)
	_, _ = io.WriteString(w, text) // a Builder takes everything
	_ = w.Close()
	return out.String()
}

// Writer returns a writer that passes text on to w with secrets replaced,
// also those split over several writes. It holds back only what may yet turn
// out to be part of a secret; Close passes on the rest and does not close w. A
// Writer is for one goroutine at a time.
func (m *Masker) Writer(w io.Writer) io.WriteCloser {
	if m == nil {
		return passThrough{w}
	}
	return &writer{out: w, nodes: m.nodes}
}

type passThrough struct{ io.Writer }

func (passThrough) Close() error { return nil }
