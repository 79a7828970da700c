package plan

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
)

// maxPort is the largest port number.
const maxPort = 65535

func (w *walker) expose(c *instructions.ExposeCommand) error {
	config := &w.stage.Config.Config
	var all []string
	for _, word := range c.Ports {
		if err := bounded(word, w.env); err != nil {
			return err
		}
		words, err := w.lex().ProcessWords(word, w.env)
		if err != nil {
			return err
		}
		for _, text := range words {
			w.checkPort(text)
			ports, err := parsePorts(text)
			if err != nil {
				return w.fail(w.at(w.pos, word), "write EXPOSE 8080 or EXPOSE 8000-8010/udp", "EXPOSE %s: %w", text, err)
			}
			all = append(all, ports...)
		}
	}
	if config.ExposedPorts == nil {
		config.ExposedPorts = map[string]struct{}{}
	}
	for _, port := range all {
		config.ExposedPorts[port] = struct{}{}
	}
	w.history(false, fmt.Sprintf("EXPOSE %v", all))
	return nil
}

// checkPort reports what EXPOSE takes and should not be given.
func (w *walker) checkPort(text string) {
	ports, protocol, _ := strings.Cut(text, "/")
	if protocol != strings.ToLower(protocol) {
		w.lint.Run(&linter.RuleExposeProtoCasing, w.location, linter.RuleExposeProtoCasing.Format(text))
	}
	if strings.Contains(ports, ":") {
		w.lint.Run(&linter.RuleExposeInvalidFormat, w.location, linter.RuleExposeInvalidFormat.Format(text))
	}
}

// parsePorts reads "[[ip:]host:]port[-port][/protocol]"; only the container's
// side counts.
func parsePorts(text string) ([]string, error) {
	number, protocol, _ := strings.Cut(text, "/")
	if protocol == "" {
		protocol = "tcp"
	}
	protocol = strings.ToLower(protocol)
	if protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
		return nil, fmt.Errorf("unknown protocol %q", protocol)
	}
	if i := strings.LastIndex(number, ":"); i >= 0 {
		number = number[i+1:]
	}
	first, last, isRange := strings.Cut(number, "-")
	from, err := parsePort(first)
	if err != nil {
		return nil, err
	}
	to := from
	if isRange {
		if to, err = parsePort(last); err != nil {
			return nil, err
		}
	}
	if to < from {
		return nil, errors.New("the range ends before it starts")
	}
	var ports []string
	for port := from; port <= to; port++ {
		ports = append(ports, strconv.Itoa(port)+"/"+protocol)
	}
	return ports, nil
}

func parsePort(text string) (int, error) {
	port, err := strconv.Atoi(text)
	if err != nil || port < 0 || port > maxPort {
		return 0, fmt.Errorf("%q is not a port number", text)
	}
	return port, nil
}

var signalPattern = lazyregexp.New(`^(?i:(SIG)?[A-Z]+[A-Z0-9]*([+-][0-9]+)?|[0-9]+)$`)

func checkSignal(text string) error {
	if !signalPattern().MatchString(text) {
		return fmt.Errorf("STOPSIGNAL %s: not a signal's name or number", text)
	}
	if n, err := strconv.Atoi(text); err == nil && (n < 1 || n > 64) {
		return fmt.Errorf("STOPSIGNAL %s: signal numbers go from 1 to 64", text)
	}
	return nil
}
