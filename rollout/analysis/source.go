package analysis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Source answers queries for a number.
type Source interface {
	// Query gives the number that query stands for now. ErrNoData means that the
	// source answered and knows of nothing: never the same as zero.
	Query(ctx context.Context, query string) (float64, error)
}

// ErrNoData says that a source has no data for a query.
var ErrNoData = errors.New("no data")

// Limits of one question to a source.
const (
	// QueryTimeout bounds one question.
	QueryTimeout = 10 * time.Second
	maxAnswer    = 4 << 20
	maxRedirects = 3
)

// client makes an HTTP client that sends token, if there is one, only to the
// host of address: a redirect to another host is an answer, not an order.
func client(address, token string) (*http.Client, error) {
	base, err := url.Parse(address)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, fmt.Errorf("address %q: want http://HOST or https://HOST", address)
	}
	if base.User != nil {
		return nil, fmt.Errorf("address of %s: credentials don't belong into an address; name a Secret under token", base.Host)
	}
	c := &http.Client{
		Timeout:   QueryTimeout,
		Transport: &bounded{next: http.DefaultTransport, host: base.Host, token: token},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Host != base.Host || r.URL.Scheme != base.Scheme {
				return fmt.Errorf("redirected to another host, %s", r.URL.Host)
			}
			if len(via) > maxRedirects {
				return errors.New("too many redirects")
			}
			return nil
		},
	}
	return c, nil
}

// bounded adds the token and bounds what is read of an answer.
type bounded struct {
	next  http.RoundTripper
	host  string
	token string
}

func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.token != "" && r.URL.Host == b.host {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	response, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	response.Body = &boundedBody{ReadCloser: response.Body, left: maxAnswer}
	return response, nil
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
