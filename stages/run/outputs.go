package run

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/pipeline"
)

// Bounds on what a script may hand on.
const (
	maxOutputBytes = 1 << 20
	maxOutputs     = 256
	maxOutputName  = 128
)

// readOutputs reads the file that a script wrote its outputs to.
func readOutputs(name string) (pipeline.Outputs, error) {
	// The script may have put anything in its place: a link to a secret of the
	// host, a pipe that never ends.
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read $%s: %w", outputVariable, err)
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("the script put something else than a file there")
	}
	if err != nil {
		return nil, fmt.Errorf("read $%s: %w", outputVariable, err)
	}
	raw, err := io.ReadAll(io.LimitReader(file, maxOutputBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read $%s: %w", outputVariable, err)
	}
	outputs, err := parseOutputs(string(raw))
	if err != nil {
		return nil, fmt.Errorf("$%s: %w", outputVariable, err)
	}
	return outputs, nil
}

// parseOutputs reads lines of the form
//
//	name=value
//	name<<END
//	any number of lines
//	END
//
// A name given twice has its last value.
func parseOutputs(text string) (pipeline.Outputs, error) {
	if len(text) > maxOutputBytes {
		return nil, fmt.Errorf("more than %d bytes: hand on large things as files of an image or a registry", maxOutputBytes)
	}
	outputs := pipeline.Outputs{}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line, number := lines[i], i+1
		if strings.TrimSpace(line) == "" {
			continue
		}
		name, value, err := "", "", error(nil)
		heredoc, equals := strings.Index(line, "<<"), strings.Index(line, "=")
		switch {
		case equals >= 0 && (heredoc < 0 || equals < heredoc):
			name, value = line[:equals], line[equals+1:]
		case heredoc >= 0:
			var end string
			name, end = line[:heredoc], line[heredoc+2:]
			value, i, err = untilLine(lines, i, end)
		default:
			err = fmt.Errorf("want name=value or name<<END, found %q", shorten(line))
		}
		if err == nil {
			err = checkName(name)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		outputs[name] = value
		if len(outputs) > maxOutputs {
			return nil, fmt.Errorf("line %d: more than %d outputs", number, maxOutputs)
		}
	}
	return outputs, nil
}

// untilLine joins the lines after start up to the one that is end, and returns
// that one's index.
func untilLine(lines []string, start int, end string) (string, int, error) {
	if end == "" {
		return "", start, errors.New("name the word that ends the value, as in name<<END")
	}
	for i := start + 1; i < len(lines); i++ {
		if lines[i] == end {
			return strings.Join(lines[start+1:i], "\n"), i, nil
		}
	}
	return "", start, fmt.Errorf("no line %q ends this value", shorten(end))
}

func checkName(name string) error {
	if name == "" || len(name) > maxOutputName {
		return fmt.Errorf("an output's name has 1 to %d characters", maxOutputName)
	}
	for i, r := range name {
		letter := r == '_' || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z')
		if !letter && (i == 0 || (r != '-' && (r < '0' || r > '9'))) {
			return fmt.Errorf("%q is no name for an output: letters, digits, _ and -, beginning with a letter or _", shorten(name))
		}
	}
	return nil
}

func shorten(text string) string {
	const most = 60
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
