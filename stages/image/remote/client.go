package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/ssh/agent"

	"github.com/tidegate-ci/tidegate/internal/netguard"
)

// Options say how a Client reaches others.
type Options struct {
	// Allow tells which addresses may be reached; nil means all. With it set
	// only HTTP and HTTPS are spoken, without proxies: the transports whose
	// connections cannot be watched are refused.
	Allow func(netip.Addr) bool
	// Secret gives credentials by id: HTTP_AUTH_TOKEN.HOST and
	// GIT_AUTH_TOKEN.HOST, each for that host alone. Nil means none.
	Secret func(id string) ([]byte, bool)
	// Agent signs in to Git over SSH; nil means that SSH cannot be used.
	Agent agent.Agent
	// Roots are the certificates to trust; nil means the system's.
	Roots *x509.CertPool
	// MaxBytes bounds one download and one Git transfer; 0 means DefaultMaxBytes.
	MaxBytes int64
	// Stall is how long a connection may be silent; 0 means a minute.
	Stall time.Duration
}

// DefaultMaxBytes bounds a download.
const DefaultMaxBytes = 8 << 30

const (
	maxRedirects   = 10
	defaultStall   = time.Minute
	connectTimeout = 30 * time.Second
	headerTimeout  = 60 * time.Second
	maxHeaders     = 1 << 20
)

// Client fetches. It is safe for concurrent use.
type Client struct {
	options Options
	http    *http.Client
}

// New makes a client.
func New(options Options) *Client {
	if options.MaxBytes == 0 {
		options.MaxBytes = DefaultMaxBytes
	}
	if options.Stall == 0 {
		options.Stall = defaultStall
	}
	dialer := &net.Dialer{Timeout: connectTimeout}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, ForceAttemptHTTP2: true, MaxIdleConns: 16, IdleConnTimeout: 30 * time.Second,
		TLSHandshakeTimeout: connectTimeout, ResponseHeaderTimeout: headerTimeout, MaxResponseHeaderBytes: maxHeaders,
		// The bytes as they are: a file that is compressed stays so.
		DisableCompression: true,
		TLSClientConfig:    &tls.Config{RootCAs: options.Roots, MinVersion: tls.VersionTLS12},
	}
	if options.Allow != nil {
		dialer.Control = netguard.Control(options.Allow)
		transport.Proxy = nil
	}
	return &Client{options: options, http: &http.Client{Transport: transport, CheckRedirect: checkRedirect}}
}

// Close ends connections that are kept open.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// checkRedirect bounds redirects, and keeps them from giving up encryption or
// carrying credentials to another host.
func checkRedirect(to *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	first, last := via[0], via[len(via)-1]
	if last.URL.Scheme == "https" && to.URL.Scheme != "https" {
		return errors.New("it redirects from https to http")
	}
	if to.URL.Scheme != "http" && to.URL.Scheme != "https" {
		return fmt.Errorf("it redirects to a %s URL", to.URL.Scheme)
	}
	if to.URL.Host != first.URL.Host || to.URL.Scheme != first.URL.Scheme {
		// net/http drops what it knows to be credentials; this drops the rest
		// and is stricter on sub-domains.
		to.Header.Del("Authorization")
		to.Header.Del("Cookie")
		to.Header.Del("Referer")
		to.URL.User = nil
	}
	return nil
}

// Validators tell a server what of a URL is known already. The zero value says nothing.
type Validators struct {
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"lastModified,omitempty"`
}

// Download is what came of a URL.
type Download struct {
	Validators
	// Unchanged is set when the server says that what is known still holds; then
	// nothing was written.
	Unchanged bool
	Size      int64
}

// Get writes what a URL gives to a writer. Errors name the URL without secrets.
func (c *Client) Get(ctx context.Context, location string, known Validators, to io.Writer) (Download, error) {
	download, err := c.get(ctx, location, known, to)
	if err != nil {
		err = fmt.Errorf("fetch %s: %w", Redacted(location), plain(err))
	}
	return download, err
}

// plain takes a URL with what may be secret out of net/http's errors.
func plain(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

func (c *Client) get(ctx context.Context, location string, known Validators, to io.Writer) (Download, error) {
	if len(location) > maxLocation {
		return Download{}, errors.New("the URL is too long")
	}
	u, err := url.Parse(location)
	if err != nil {
		return Download{}, errors.New("it is not a URL")
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return Download{}, errors.New("want a URL that starts with https:// or http:// and names a host")
	}
	u.Fragment = ""
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return Download{}, errors.New("it is not a URL")
	}
	request.Header.Set("User-Agent", "tidegate")
	if known.ETag != "" {
		request.Header.Set("If-None-Match", known.ETag)
	} else if known.LastModified != "" {
		request.Header.Set("If-Modified-Since", known.LastModified)
	}
	if token, ok := c.secret("HTTP_AUTH_TOKEN." + u.Host); ok {
		if u.Scheme != "https" && c.options.Allow != nil {
			return Download{}, errors.New("a token is only sent by https")
		}
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return Download{}, err
	}
	defer response.Body.Close()
	download := Download{Validators: Validators{header(response, "ETag"), header(response, "Last-Modified")}}
	switch {
	case response.StatusCode == http.StatusNotModified && known != Validators{}:
		download.Unchanged, download.Validators = true, known
		return download, nil
	case response.StatusCode != http.StatusOK:
		return Download{}, fmt.Errorf("the server answers %d %s", response.StatusCode, http.StatusText(response.StatusCode))
	case response.ContentLength > c.options.MaxBytes:
		return Download{}, fmt.Errorf("it has %d bytes, more than %d", response.ContentLength, c.options.MaxBytes)
	}
	watched := watch(response.Body, c.options.Stall, cancel)
	defer watched.stop()
	if download.Size, err = io.Copy(to, &limitedReader{from: watched, left: c.options.MaxBytes, limit: c.options.MaxBytes}); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return Download{}, err
	}
	return download, nil
}

// maxValidator bounds a validator that is remembered, in bytes.
const maxValidator = 1 << 10

func header(response *http.Response, name string) string {
	value := response.Header.Get(name)
	if len(value) > maxValidator {
		return ""
	}
	return value
}

func (c *Client) secret(id string) (string, bool) {
	if c.options.Secret == nil {
		return "", false
	}
	value, ok := c.options.Secret(id)
	return strings.TrimSpace(string(value)), ok && len(value) > 0
}

type limitedReader struct {
	from        io.Reader
	left, limit int64
}

func (r *limitedReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if r.left -= int64(n); r.left < 0 {
		return 0, fmt.Errorf("it has more than %d bytes", r.limit)
	}
	return n, err
}

// watchedReader ends a transfer that brings nothing for a while.
type watchedReader struct {
	from  io.Reader
	timer *time.Timer
	stall time.Duration
}

func watch(from io.Reader, stall time.Duration, cancel context.CancelCauseFunc) *watchedReader {
	return &watchedReader{from, time.AfterFunc(stall, func() { cancel(fmt.Errorf("nothing came for %s", stall)) }), stall}
}

func (r *watchedReader) stop() { r.timer.Stop() }

func (r *watchedReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if n > 0 {
		r.timer.Reset(r.stall)
	}
	return n, err
}
