package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	gh "github.com/google/go-github/v60/github"
)

// StateName is what a commit status can say.
type StateName string

// The states that GitHub knows.
const (
	StatePending StateName = "pending"
	StateSuccess StateName = "success"
	StateFailure StateName = "failure"
	// StateError is for what was no fault of the commit.
	StateError StateName = "error"
)

// State is a commit status.
type State struct {
	// Context names the check, such as "tidegate/shop"; it is what a required
	// check refers to.
	Context string
	State   StateName
	// Description is one line; what is longer than GitHub's 140 characters is cut.
	Description string
	// TargetURL leads to the run; empty for none. Only http and https are sent.
	TargetURL string
}

const (
	// maxDescription is GitHub's limit (docs.github.com, "Create a commit status").
	maxDescription = 140
	maxContext     = 255

	requestTimeout = 30 * time.Second
	maxTries       = 6
	firstRetry     = time.Second
	longestRetry   = time.Minute
	// longestLimit is how long a rate limit may ask to wait. GitHub's hourly
	// limit resets within an hour.
	longestLimit = time.Hour
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 1 << 20
)

// ClientConfig of a Client.
type ClientConfig struct {
	// BaseURL of the REST API, such as https://github.example.com/api/v3 for
	// GitHub Enterprise; empty means https://api.github.com.
	BaseURL string
	// Token may write commit statuses. It is sent to BaseURL's host alone.
	Token string
	// Transport carries the requests; nil means http.DefaultTransport.
	Transport http.RoundTripper
	// Sleep waits between tries; nil means by a timer.
	Sleep func(ctx context.Context, d time.Duration) error
	Now   func() time.Time // nil means time.Now
}

// Client calls GitHub's REST API.
type Client struct {
	github *gh.Client
	sleep  func(ctx context.Context, d time.Duration) error
	now    func() time.Time
}

// NewClient checks a configuration and makes its client.
func NewClient(config ClientConfig) (*Client, error) {
	transport := config.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	client := gh.NewClient(&http.Client{
		Transport: boundedTransport{transport},
		Timeout:   requestTimeout,
		// A redirect could carry the token to another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})
	if config.Token != "" {
		client = client.WithAuthToken(config.Token)
	}
	if config.BaseURL != "" {
		u, err := url.Parse(strings.TrimSuffix(config.BaseURL, "/") + "/")
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
			return nil, errors.New("GitHub API: the base URL must be http(s)://host/path without credentials, such as https://github.example.com/api/v3")
		}
		client.BaseURL = u
	}
	c := &Client{github: client, sleep: config.Sleep, now: config.Now}
	if c.sleep == nil {
		c.sleep = sleep
	}
	if c.now == nil {
		c.now = time.Now
	}
	return c, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Status sets a commit's status and returns when GitHub has it. It tries again
// after failures of the network and the server, and waits as long as a rate
// limit asks for; ctx bounds all of that.
func (c *Client) Status(ctx context.Context, repository, commit string, state State) error {
	owner, name, ok := strings.Cut(repository, "/")
	if !ok || !validFullName(repository) || !validHash(commit) {
		return fmt.Errorf("report status: %q at %q is not a repository and commit", repository, commit)
	}
	status := &gh.RepoStatus{
		State:       gh.String(string(state.State)),
		Context:     gh.String(clip(state.Context, maxContext)),
		Description: gh.String(oneLine(state.Description, maxDescription)),
	}
	if u, err := url.Parse(state.TargetURL); err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.User == nil {
		status.TargetURL = gh.String(state.TargetURL)
	}
	return c.again(ctx, fmt.Sprintf("report status %s of %s at %s", state.State, repository, commit), func() (*gh.Response, error) {
		_, response, err := c.github.Repositories.CreateStatus(ctx, owner, name, commit, status)
		return response, err
	})
}

// retryIn decides whether a failed request is tried again, and when.
func retryIn(err error, response *gh.Response, try int, now time.Time) (time.Duration, bool) {
	if try >= maxTries || errors.Is(err, context.Canceled) {
		return 0, false
	}
	var limit *gh.RateLimitError
	var abuse *gh.AbuseRateLimitError
	switch {
	case errors.As(err, &limit):
		return clampLimit(limit.Rate.Reset.Sub(now)), true
	case errors.As(err, &abuse):
		if abuse.RetryAfter != nil {
			return clampLimit(*abuse.RetryAfter), true
		}
		return longestRetry, true // "wait at least one minute", says GitHub
	}
	if response != nil {
		if seconds := retryAfter(response.Header); seconds > 0 && (response.StatusCode == http.StatusForbidden || response.StatusCode == http.StatusTooManyRequests || response.StatusCode >= 500) {
			return clampLimit(seconds), true
		}
		if response.StatusCode != http.StatusTooManyRequests && response.StatusCode < 500 {
			return 0, false
		}
	}
	delay := firstRetry
	for i := 1; i < try && delay < longestRetry; i++ {
		delay *= 2
	}
	return min(delay, longestRetry), true
}

// clampLimit keeps a wait that the server asked for within sense. A second more
// is for clocks that differ.
func clampLimit(d time.Duration) time.Duration {
	return min(max(d, 0)+time.Second, longestLimit)
}

func retryAfter(header http.Header) time.Duration {
	var seconds int
	if _, err := fmt.Sscanf(header.Get("Retry-After"), "%d", &seconds); err != nil || seconds < 0 || seconds > int(longestLimit/time.Second) {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// oneLine makes s one line of at most limit characters.
func oneLine(s string, limit int) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "\uFFFD")), " ")
	if runes := []rune(s); len(runes) > limit {
		return string(runes[:limit-1]) + "…"
	}
	return s
}
