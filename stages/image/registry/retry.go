package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/tidegate-ci/tidegate/internal/netguard"
)

// Retry says how failures that may pass are met: with exponential back-off, or
// after the time the registry names. The zero value is good.
type Retry struct {
	// First is the first pause, Longest the longest; each is randomised.
	First, Longest time.Duration
	// Within is how long failures in a row are borne.
	Within time.Duration
	// Sleep waits, or returns the error of ctx; nil means a timer.
	Sleep func(ctx context.Context, d time.Duration) error
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

func (r Retry) withDefaults() Retry {
	if r.First <= 0 {
		r.First = 250 * time.Millisecond
	}
	if r.Longest <= 0 {
		r.Longest = 15 * time.Second
	}
	if r.Within <= 0 {
		r.Within = 2 * time.Minute
	}
	if r.Sleep == nil {
		r.Sleep = sleep
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	return r
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dialWithin bounds how long failures to connect are borne.
const dialWithin = 15 * time.Second

// longestWait bounds what a registry can ask for by Retry-After.
const longestWait = time.Minute

// attempts counts one operation's failures in a row.
type attempts struct {
	retry  Retry
	since  time.Time
	failed int
}

// progressed forgets the failures so far.
func (a *attempts) progressed() { a.failed, a.since = 0, time.Time{} }

// next waits before another try, or returns why there is none: err itself when
// it is no passing failure or has lasted too long.
func (a *attempts) next(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !passing(err) {
		return err
	}
	now := a.retry.Now()
	if a.failed == 0 {
		a.since = now
	}
	a.failed++
	pause := a.retry.First << min(a.failed-1, 16)
	if pause > a.retry.Longest || pause <= 0 {
		pause = a.retry.Longest
	}
	pause = pause/2 + rand.N(pause/2+1)
	var status *StatusError
	if errors.As(err, &status) && status.RetryAfter > 0 {
		pause = min(status.RetryAfter, longestWait)
	}
	within := a.retry.Within
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		// A registry that cannot even be connected to is more often absent or
		// mistyped than busy: whoever waits wants to know soon.
		within = min(within, dialWithin)
	}
	if now.Add(pause).Sub(a.since) > within {
		return &UnavailableError{Tries: a.failed, Err: err}
	}
	return a.retry.Sleep(ctx, pause)
}

// do repeats an operation until it succeeds or there is no hope.
func (c *Client) do(ctx context.Context, operation func() error) error {
	a := attempts{retry: c.options.Retry}
	for {
		err := operation()
		if err == nil {
			return nil
		}
		if err := a.next(ctx, err); err != nil {
			return err
		}
	}
}

// UnavailableError says that a registry kept failing.
type UnavailableError struct {
	Tries int
	Err   error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("%v (gave up after %d tries)", e.Err, e.Tries)
}
func (e *UnavailableError) Unwrap() error { return e.Err }

// StatusError is an answer that is not what was asked for.
type StatusError struct {
	Method, URL string
	Code        int
	RetryAfter  time.Duration
	// Message is what the registry says, shortened.
	Message string
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%s %s: %d %s", e.Method, e.URL, e.Code, http.StatusText(e.Code))
	if e.Message != "" {
		text += ": " + e.Message
	}
	switch e.Code {
	case http.StatusUnauthorized, http.StatusForbidden:
		text += " (log in with docker login, or set DOCKER_CONFIG to where the credentials are)"
	}
	return text
}

// passing tells whether an error may go away by itself.
func passing(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		return passingCode(status.Code)
	}
	var ping *transport.Error
	if errors.As(err, &ping) {
		return passingCode(ping.StatusCode)
	}
	var digest *DigestError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verification *tls.CertificateVerificationError
	var permanent *permanentError
	var lookup *net.DNSError
	var refused *netguard.RefusedError
	switch {
	case errors.As(err, &lookup) && lookup.IsNotFound:
		return false
	case errors.As(err, &digest), errors.As(err, &permanent), errors.As(err, &authority), errors.As(err, &host),
		errors.As(err, &invalid), errors.As(err, &verification), errors.As(err, &refused):
		return false
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	}
	return true // the connection failed in one of its many ways
}

func passingCode(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusTooEarly:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return code >= 500
}

// permanentError is a failure on our side of the connection.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// maxMessage bounds what of an error's body is read.
const maxMessage = 4 << 10

func statusError(response *http.Response, now time.Time) error {
	e := &StatusError{Method: response.Request.Method, Code: response.StatusCode}
	// No query: it may hold a signature.
	u := *response.Request.URL
	u.RawQuery, u.User = "", nil
	e.URL = u.String()
	if text := response.Header.Get("Retry-After"); text != "" {
		if seconds, err := strconv.Atoi(text); err == nil && seconds >= 0 {
			e.RetryAfter = time.Duration(min(seconds, int(longestWait/time.Second))) * time.Second
		} else if at, err := http.ParseTime(text); err == nil {
			e.RetryAfter = max(at.Sub(now), 0)
		}
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxMessage)) // best effort
	var document struct {
		Errors []struct{ Code, Message string } `json:"errors"`
	}
	if json.Unmarshal(body, &document) == nil {
		var messages []string
		for _, item := range document.Errors {
			messages = append(messages, strings.TrimSpace(item.Code+" "+item.Message))
		}
		e.Message = printable(strings.Join(messages, "; "))
	}
	return e
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
