package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/internal/termtext"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

const (
	// maxAnswer bounds what the client reads of an answer that is not a stream.
	maxAnswer = 64 << 20
	// requestTimeout bounds a request that is not a stream.
	requestTimeout = time.Minute
	maxShown       = 500 // bytes of an answer that is not ours, shown in an error
)

// Client talks to a server's API. It is safe for concurrent use.
//
// Errors carry a pipeline.Cause, so that exit codes follow: a refusal and a
// conflict are CauseRefused, a request that makes no sense or names nothing
// that exists is CauseInvalid, all else is CauseInfrastructure.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
	retry Backoff
}

// NewClient returns a client for the server at address, such as
// "http://127.0.0.1:8080". The address must not hold credentials.
func NewClient(address, token string) (*Client, error) {
	base, err := url.Parse(address)
	switch {
	case err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https"):
		return nil, pipeline.Fail(pipeline.CauseInvalid, "server address %q is not like http://127.0.0.1:8080", termtext.Clean(address))
	case base.User != nil:
		return nil, pipeline.Fail(pipeline.CauseInvalid, "the server address holds a user name or password: use a token instead")
	}
	base.Path = strings.TrimSuffix(strings.TrimSuffix(base.Path, "/"), Prefix)
	base.RawQuery, base.Fragment = "", ""
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck // the standard library says so
	transport.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	transport.ResponseHeaderTimeout = requestTimeout
	return &Client{
		base:  base,
		token: token,
		retry: DefaultBackoff,
		http: &http.Client{
			Transport: transport,
			// A token is for the server it was given for.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Server is the address the client talks to.
func (c *Client) Server() string { return c.base.String() }

// WhoAmI tells whom the token stands for.
func (c *Client) WhoAmI(ctx context.Context) (Identity, error) {
	var identity Identity
	err := c.get(ctx, "/whoami", nil, &identity)
	return identity, err
}

// List returns summaries of runs, newest first.
func (c *Client) List(ctx context.Context, filter journal.Filter) ([]journal.Summary, error) {
	var runs []journal.Summary
	err := c.get(ctx, "/runs", filterQuery(filter), &runs)
	return runs, err
}

// Run returns one run in full; id may be the beginning of one.
func (c *Client) Run(ctx context.Context, id string) (Run, error) {
	var run Run
	err := c.get(ctx, "/runs/"+url.PathEscape(id), nil, &run)
	return run, err
}

// Log copies the plain log of a run to w: of one stage, or whole with "".
func (c *Client) Log(ctx context.Context, id, stage string, timestamps bool, w io.Writer) error {
	query := url.Values{}
	if stage != "" {
		query.Set("stage", stage)
	}
	if timestamps {
		query.Set("timestamps", "1")
	}
	response, err := c.do(ctx, http.MethodGet, "/runs/"+url.PathEscape(id)+"/log", query, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(w, response.Body); err != nil {
		return fmt.Errorf("reading the log of run %s: %w", id, err)
	}
	return nil
}

// Start starts pipelines by hand and returns the ids of the runs.
func (c *Client) Start(ctx context.Context, request StartRequest) ([]string, error) {
	var started StartedRuns
	err := c.post(ctx, "/runs", request, &started)
	return started.IDs, err
}

// Cancel asks a run to stop.
func (c *Client) Cancel(ctx context.Context, id, reason string) (Done, error) {
	var done Done
	err := c.post(ctx, "/runs/"+url.PathEscape(id)+"/cancel", CancelRequest{Reason: reason}, &done)
	return done, err
}

// Decide answers the approval that a stage waits for.
func (c *Client) Decide(ctx context.Context, id, stage string, request DecisionRequest) (Done, error) {
	var done Done
	err := c.post(ctx, "/runs/"+url.PathEscape(id)+"/stages/"+url.PathEscape(stage)+"/decision", request, &done)
	return done, err
}

// Rerun runs the plan of a finished run once more and returns the new id.
func (c *Client) Rerun(ctx context.Context, id string, fromFailed bool) (string, error) {
	var started StartedRuns
	if err := c.post(ctx, "/runs/"+url.PathEscape(id)+"/rerun", RerunRequest{FromFailed: fromFailed}, &started); err != nil {
		return "", err
	}
	if len(started.IDs) != 1 {
		return "", fmt.Errorf("the server at %s answered a rerun with %d runs", c.Server(), len(started.IDs))
	}
	return started.IDs[0], nil
}

// Events returns the newest events of the inbox.
func (c *Client) Events(ctx context.Context, repository string, limit int) ([]EventRecord, error) {
	var records []EventRecord
	err := c.get(ctx, "/events", filterQuery(journal.Filter{Repository: repository, Limit: limit}), &records)
	return records, err
}

// Redeliver handles a stored event once more.
func (c *Client) Redeliver(ctx context.Context, id string) error {
	var done Done
	return c.post(ctx, "/events/"+url.PathEscape(id)+"/redeliver", struct{}{}, &done)
}

func filterQuery(filter journal.Filter) url.Values {
	query := url.Values{}
	if filter.Repository != "" {
		query.Set("repository", filter.Repository)
	}
	if filter.Pipeline != "" {
		query.Set("pipeline", filter.Pipeline)
	}
	for _, status := range filter.Status {
		query.Add("status", string(status))
	}
	if filter.Limit > 0 {
		query.Set("limit", strconv.Itoa(filter.Limit))
	}
	return query
}

func (c *Client) get(ctx context.Context, path string, query url.Values, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	response, err := c.do(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	return c.decode(response, answer)
}

func (c *Client) post(ctx context.Context, path string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	encoded, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding the request: %w", err)
	}
	response, err := c.do(ctx, http.MethodPost, path, nil, encoded)
	if err != nil {
		return err
	}
	return c.decode(response, answer)
}

// decode reads an answer; fields that a newer server added are passed over.
func (c *Client) decode(response *http.Response, answer any) error {
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", c.Server(), err)
	}
	if len(data) > maxAnswer {
		return fmt.Errorf("the answer of %s is larger than %d bytes", c.Server(), maxAnswer)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("the answer of %s is not what a Tidegate server sends: %w", c.Server(), err)
	}
	return nil
}

// do sends a request and returns its answer if that is a success.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body []byte) (*http.Response, error) {
	if c.token == "" {
		return nil, pipeline.Fail(pipeline.CauseInvalid, "no token for the server at %s: set TIDEGATE_TOKEN or give --token-file (the first start of a server writes one to admin-token in its data directory)", c.Server())
	}
	address := c.base.String() + Prefix + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, pipeline.Fail(pipeline.CauseInvalid, "asking %s: %w", c.Server(), err)
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if response.StatusCode/100 == 2 {
		return response, nil
	}
	defer response.Body.Close()
	return nil, c.failure(response)
}

func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // the request's URL adds nothing
	}
	return pipeline.Fail(pipeline.CauseInfrastructure,
		"can't reach the server at %s: %w; is 'tidegate serve' running there? Name another with --server or TIDEGATE_SERVER", c.Server(), err)
}

// failure makes an error of an answer that is not a success.
func (c *Client) failure(response *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", c.Server(), err)
	}
	var body errorBody
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if kind != "application/json" || json.Unmarshal(data, &body) != nil || body.Error == nil || body.Error.Code == "" {
		if location := response.Header.Get("Location"); response.StatusCode/100 == 3 && location != "" {
			return pipeline.Fail(pipeline.CauseInvalid, "the server at %s is elsewhere: use --server %s", c.Server(), termtext.Clean(location))
		}
		text := termtext.Clean(string(data[:min(len(data), maxShown)]))
		return pipeline.Fail(pipeline.CauseInfrastructure, "%s answered %s, not as a Tidegate server does: %s", c.Server(), response.Status, text)
	}
	cause := pipeline.CauseInfrastructure
	switch body.Error.Code {
	case CodeInvalid, CodeNotFound, CodeTooLarge, CodeUnauthenticated:
		cause = pipeline.CauseInvalid
	case CodeRefused, CodeConflict:
		cause = pipeline.CauseRefused
	}
	return &pipeline.Error{Cause: cause, Err: &Error{
		Code: body.Error.Code, Message: termtext.Clean(body.Error.Message), Hint: termtext.Clean(body.Error.Hint),
	}}
}
