package analysis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// CloudDelay is how long after a request the services behind Datadog, New Relic
// and CloudWatch may know of it: a look covers the interval that ended so long ago.
const CloudDelay = time.Minute

// Limits of one look at a service.
const (
	cloudTries    = 3
	cloudFirst    = 500 * time.Millisecond // before the second try; doubled before the third
	maxCloudError = 300                    // bytes of what a service says went wrong
)

// Look is what a look at a service covers.
type Look struct {
	// Interval between looks, and the length of the time that each covers.
	Interval time.Duration
	// Sum asks for the sum of what was counted; otherwise for the mean.
	Sum bool
	// Clock tells the time; nil means time.Now.
	Clock func() time.Time
}

// window is the time that a look covers now.
func (l Look) window() (from, until time.Time) {
	now := time.Now
	if l.Clock != nil {
		now = l.Clock
	}
	until = now().Add(-CloudDelay)
	return until.Add(-l.Interval), until
}

// service is the API of one vendor. Keys are in headers alone, which no error
// shows, and no redirect is followed: they go nowhere else.
type service struct {
	name    string
	address string
	client  *http.Client
	wait    func(context.Context, time.Duration) error
}

func newService(name, address string) *service {
	return &service{name: name, address: address, wait: sleep, client: &http.Client{
		Timeout:       QueryTimeout,
		Transport:     &bounded{next: http.DefaultTransport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func sleep(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// post sends body and returns the answer of a service that answered with 200.
// What may pass, a limit of requests or a service in trouble, is tried again
// while the context allows it. prepare adds headers; explain finds what went
// wrong in an answer, "" when it says nothing.
func (s *service) post(ctx context.Context, body []byte, prepare func(*http.Request), explain func([]byte) string) ([]byte, error) {
	wait := cloudFirst
	for try := 1; ; try++ {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.address, bytes.NewReader(body))
		if err != nil {
			return nil, fmt.Errorf("asking %s: %w", s.name, err)
		}
		prepare(request)
		answer, err := s.client.Do(request)
		if err != nil {
			return nil, fmt.Errorf("asking %s: %w", s.name, err)
		}
		content, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close() // it was read to its end, or its error is told
		if err != nil {
			return nil, fmt.Errorf("reading the answer of %s: %w", s.name, err)
		}
		if answer.StatusCode == http.StatusOK {
			return content, nil
		}
		failure := fmt.Errorf("%s answers %s%s", s.name, answer.Status, because(explain(content)))
		if answer.StatusCode != http.StatusTooManyRequests && answer.StatusCode < http.StatusInternalServerError || try == cloudTries {
			return nil, failure
		}
		pause := max(wait, asked(answer.Header))
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < pause {
			return nil, failure // the next look is its next try
		}
		if err := s.wait(ctx, pause); err != nil {
			return nil, failure
		}
		wait *= 2
	}
}

// asked is how long a service wants to be left alone: Retry-After, in seconds, or
// Datadog's X-RateLimit-Reset.
func asked(header http.Header) time.Duration {
	for _, key := range []string{"Retry-After", "X-RateLimit-Reset"} {
		if seconds, err := strconv.ParseUint(header.Get(key), 10, 16); err == nil {
			return time.Duration(seconds) * time.Second
		}
	}
	return 0
}

// because bounds what a service says.
func because(text string) string {
	text = strings.TrimSpace(strings.ToValidUTF8(text, ""))
	if text == "" {
		return ""
	}
	if len(text) > maxCloudError {
		text = strings.ToValidUTF8(text[:maxCloudError], "") + "…"
	}
	return ": " + text
}

// errSeveral says that a query gave more than one number.
func errSeveral(n int) error {
	return fmt.Errorf("the query gives %d numbers; it must give one: sum them, or select one", n)
}

var errNoKey = errors.New("a key is empty")
