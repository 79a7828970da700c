package docker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	dialTimeout = 10 * time.Second
	// maxAnswer bounds what is read of the engine's answer, maxLine one line of
	// it, in bytes.
	maxAnswer = 16 << 20
	maxLine   = 1 << 20
	// maxText bounds what of an answer is shown.
	maxText = 1 << 10
)

// Load streams an archive, as `docker save` makes them, into the engine and
// gives what the engine says it loaded.
func Load(ctx context.Context, h Host, archive func(io.Writer) error) (loaded []string, err error) {
	client, base, err := h.client()
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	reading, writing := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := archive(writing)
		_ = writing.CloseWithError(err) // nil ends the stream
		written <- err
	}()
	loaded, err = post(ctx, client, base, reading)
	_ = reading.CloseWithError(errors.New("the engine reads no further")) // the writer ends at its next byte
	archiveErr := <-written
	switch {
	case err == nil:
		return loaded, archiveErr
	case archiveErr != nil && errors.Is(err, archiveErr):
		return nil, archiveErr // the request failed because there was nothing to send
	}
	return nil, h.explain(err)
}

func post(ctx context.Context, client *http.Client, base string, body io.Reader) ([]string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/images/load?quiet=1", body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-tar")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer := io.LimitReader(response.Body, maxAnswer)
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer, maxText)) // best effort
		var said struct{ Message string }
		if json.Unmarshal(text, &said) == nil && said.Message != "" {
			text = []byte(said.Message)
		}
		return nil, fmt.Errorf("it answered %s: %s", response.Status, printable(string(text)))
	}
	return readAnswer(answer)
}

// readAnswer reads the engine's stream of JSON lines. Failures stand in it too:
// the status was sent before the archive was read.
func readAnswer(answer io.Reader) ([]string, error) {
	var loaded []string
	lines := bufio.NewScanner(answer)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var line struct {
			Stream string `json:"stream"`
			Error  string `json:"error"`
		}
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			continue // progress of some other kind
		}
		if line.Error != "" {
			return nil, errors.New(printable(line.Error))
		}
		if text := printable(strings.TrimSpace(line.Stream)); text != "" {
			loaded = append(loaded, text)
		}
	}
	return loaded, lines.Err()
}

// client gives a client of the engine and the beginning of its URLs.
func (h Host) client() (*http.Client, string, error) {
	u, err := url.Parse(h.URL)
	if err != nil {
		return nil, "", fmt.Errorf("docker host %q (%s): %w", h.URL, h.From, err)
	}
	carrier := &http.Transport{TLSClientConfig: h.TLS, DisableCompression: true}
	dialer := &net.Dialer{Timeout: dialTimeout}
	carrier.DialContext = dialer.DialContext
	// An engine has no business elsewhere.
	client := &http.Client{Transport: carrier, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	scheme := "http"
	if h.TLS != nil {
		scheme = "https"
	}
	switch u.Scheme {
	case "unix":
		socket := u.Path
		carrier.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}
		return client, "http://docker", nil
	case "tcp":
		return client, scheme + "://" + u.Host, nil
	case "http", "https":
		return client, u.Scheme + "://" + u.Host, nil
	}
	return nil, "", fmt.Errorf("docker host %q (%s): images can be loaded through unix:// and tcp://; for %s write type=docker,dest=- and pipe it into `docker load`", h.URL, h.From, u.Scheme)
}

// explain names the engine and what to do.
func (h Host) explain(err error) error {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return fmt.Errorf("no Docker answers at %s (%s): %w: start it, set DOCKER_HOST to where it listens, or write type=docker,dest=FILE for `docker load`", h.URL, h.From, dial.Err)
	}
	return fmt.Errorf("load into Docker at %s (%s): %w", h.URL, h.From, err)
}

// printable keeps a foreign message from playing with a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}
