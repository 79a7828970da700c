package inbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/triggers/forge/github"
	"github.com/tidegate-ci/tidegate/triggers/inbox"
	"github.com/tidegate-ci/tidegate/triggers/inbox/sqlite"
)

var (
	ctx    = context.Background()
	secret = []byte("a secret of the tests")
)

type repositories map[string]inbox.Repository

func (r repositories) Lookup(name string) (inbox.Repository, bool) {
	repository, ok := r[strings.ToLower(name)]
	return repository, ok
}

var shop = repositories{"octo/shop": {FullName: "octo/shop", Secret: secret, CloneURL: "https://git.example.com/octo/shop"}}

func openStore(t testing.TB, options sqlite.Options) *sqlite.Store {
	t.Helper()
	store, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "inbox.db"), options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

func serve(t testing.TB, store inbox.Store, change func(*inbox.Config)) *httptest.Server {
	t.Helper()
	config := inbox.Config{Forge: github.Forge{}, Store: store, Repositories: shop}
	if change != nil {
		change(&config)
	}
	handler, err := inbox.NewHandler(config)
	require.NoError(t, err)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

func payload(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "forge", "github", "testdata", name+".json"))
	require.NoError(t, err)
	return data
}

type reply struct {
	code                     int
	retryAfter               string
	Status, Delivery, Reason string
}

// send posts a delivery; an empty id means a new one.
func send(t testing.TB, url, kind, id string, body []byte, change func(*http.Request)) reply {
	t.Helper()
	if id == "" {
		id = uuid.NewString()
	}
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(github.HeaderDelivery, id)
	request.Header.Set(github.HeaderEvent, kind)
	request.Header.Set(github.HeaderSignature, github.Sign(body, secret))
	if change != nil {
		change(request)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { require.NoError(t, response.Body.Close()) }()
	r := reply{code: response.StatusCode, retryAfter: response.Header.Get("Retry-After")}
	require.NoError(t, json.NewDecoder(response.Body).Decode(&r))
	return r
}

func TestAcceptedOnce(t *testing.T) {
	store := openStore(t, sqlite.Options{})
	server := serve(t, store, nil)
	body := payload(t, "push")
	r := send(t, server.URL, "push", "one", body, nil)
	require.Equal(t, reply{code: 202, Status: "accepted", Delivery: "one"}, r)
	r = send(t, server.URL, "push", "one", body, nil)
	require.Equal(t, 200, r.code)
	require.Equal(t, "duplicate", r.Status)

	list, err := store.List(ctx, inbox.Filter{})
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, "https://git.example.com/octo/shop", list[0].Event.Repository.CloneURL, "the configured URL counts, not the payload's")
	require.False(t, list[0].Event.ReceivedAt.IsZero())
}

func TestAnswers(t *testing.T) {
	resign := func(with []byte) func(*http.Request) {
		return func(r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			r.Header.Set(github.HeaderSignature, github.Sign(body, with))
		}
	}
	push := payload(t, "push")
	other := bytes.ReplaceAll(push, []byte("octo/shop"), []byte("octo/other"))
	organisation := []byte("the secret of the organisation")
	withDefault := func(c *inbox.Config) { c.DefaultSecret = organisation }
	for name, c := range map[string]struct {
		kind   string
		body   []byte
		config func(*inbox.Config)
		change func(*http.Request)
		code   int
		status string
		reason string
	}{
		"ping":                        {kind: "ping", body: payload(t, "ping"), code: 200, status: "ignored", reason: "pong"},
		"ping of an organisation":     {kind: "ping", body: payload(t, "ping_organization"), config: withDefault, change: resign(organisation), code: 200, status: "ignored", reason: "pong"},
		"starts nothing":              {kind: "issues", body: payload(t, "issues_opened"), code: 202, status: "ignored", reason: "issues"},
		"deleted branch":              {kind: "push", body: payload(t, "push_deleted"), code: 202, status: "ignored", reason: "deleting"},
		"wrong signature":             {kind: "push", body: push, change: resign([]byte("wrong")), code: 401, status: "refused", reason: "does not match"},
		"unknown repository":          {kind: "push", body: other, code: 401, status: "refused", reason: "is configured here"},
		"unknown, organisation knows": {kind: "push", body: other, config: withDefault, change: resign(organisation), code: 404, status: "refused", reason: `"octo/other" is not configured`},
		"unknown, wrong secret":       {kind: "push", body: other, config: withDefault, code: 401, status: "refused", reason: "does not match"},
		"organisation's secret for a repository with its own": {kind: "push", body: push, config: withDefault, change: resign(organisation), code: 401, status: "refused", reason: "does not match"},
		"no signature": {kind: "push", body: push, change: func(r *http.Request) { r.Header.Del(github.HeaderSignature) }, code: 401, status: "refused", reason: "not signed"},
		"SHA-1 only": {kind: "push", body: push, change: func(r *http.Request) {
			r.Header.Del(github.HeaderSignature)
			r.Header.Set("X-Hub-Signature", "sha1=00")
		}, code: 401, status: "refused", reason: "SHA-1"},
		"no JSON":       {kind: "push", body: []byte("hello"), code: 400, status: "refused", reason: "JSON"},
		"no repository": {kind: "push", body: []byte("{}"), code: 400, status: "refused", reason: "no repository"},
		"bad push":      {kind: "push", body: []byte(`{"repository":{"full_name":"octo/shop"},"ref":"refs/heads/a..b"}`), code: 400, status: "refused", reason: "valid ref"},
		"by GET":        {kind: "push", change: func(r *http.Request) { r.Method = http.MethodGet }, code: 405, status: "refused", reason: "POST"},
		"oversized":     {kind: "push", body: bytes.Repeat([]byte("x"), 1<<20+1), config: func(c *inbox.Config) { c.MaxBodyBytes = 1 << 20 }, code: 413, status: "refused", reason: "larger"},
	} {
		t.Run(name, func(t *testing.T) {
			store := openStore(t, sqlite.Options{})
			r := send(t, serve(t, store, c.config).URL, c.kind, "", c.body, c.change)
			require.Equal(t, c.code, r.code, r)
			require.Equal(t, c.status, r.Status)
			require.Contains(t, r.Reason, c.reason)
			list, err := store.List(ctx, inbox.Filter{})
			require.NoError(t, err)
			require.Empty(t, list)
		})
	}
}

func TestSecretsThatProtectNothing(t *testing.T) {
	for _, weak := range []string{"", "short"} {
		_, err := inbox.NewHandler(inbox.Config{Forge: github.Forge{}, Store: &sqlite.Store{}, Repositories: shop, DefaultSecret: []byte(weak)})
		require.ErrorContains(t, err, "secret")
	}
	// A repository that somehow has none is closed, not open.
	server := serve(t, openStore(t, sqlite.Options{}), func(c *inbox.Config) {
		c.Repositories = repositories{"octo/shop": {FullName: "octo/shop"}}
	})
	body := payload(t, "push")
	r := send(t, server.URL, "push", "", body, func(r *http.Request) { r.Header.Set(github.HeaderSignature, github.Sign(body, nil)) })
	require.Equal(t, 401, r.code)
}

// An event that cannot be stored is not acknowledged.
func TestFullStore(t *testing.T) {
	store := openStore(t, sqlite.Options{MaxPages: 40})
	server := serve(t, store, nil)
	body := payload(t, "push")
	accepted := 0
	for {
		r := send(t, server.URL, "push", "", body, nil)
		if r.code == 503 {
			require.Equal(t, "unavailable", r.Status)
			require.Contains(t, r.Reason, "no room")
			require.NotEmpty(t, r.retryAfter)
			break
		}
		require.Equal(t, 202, r.code)
		accepted++
		require.Less(t, accepted, 1000)
	}
	list, err := store.List(ctx, inbox.Filter{Limit: 1000})
	require.NoError(t, err)
	require.Len(t, list, accepted)
}

func TestClosedStore(t *testing.T) {
	store, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "inbox.db"), sqlite.Options{})
	require.NoError(t, err)
	server := serve(t, store, nil)
	require.NoError(t, store.Close())
	require.Equal(t, 503, send(t, server.URL, "push", "", payload(t, "push"), nil).code)
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Huge bodies from strangers use no memory, with and without their length said.
func TestHugeBodies(t *testing.T) {
	server := serve(t, openStore(t, sqlite.Options{}), nil)
	const huge = 600 << 20
	for name, length := range map[string]int64{"length said": huge, "chunked": -1} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var wait sync.WaitGroup
			for range 8 {
				wait.Go(func() {
					request, err := http.NewRequest(http.MethodPost, server.URL, io.LimitReader(zeros{}, huge))
					if err != nil {
						t.Error(err)
						return
					}
					request.ContentLength = length
					request.Header.Set("Content-Type", "application/json")
					request.Header.Set(github.HeaderDelivery, uuid.NewString())
					request.Header.Set(github.HeaderEvent, "push")
					request.Header.Set(github.HeaderSignature, github.Sign(nil, secret))
					response, err := http.DefaultClient.Do(request)
					if err != nil {
						return // the server hung up while the body was still on its way
					}
					if response.StatusCode != http.StatusRequestEntityTooLarge && response.StatusCode != http.StatusServiceUnavailable {
						t.Errorf("status %d", response.StatusCode)
					}
					_ = response.Body.Close()
				})
			}
			wait.Wait()
			runtime.ReadMemStats(&after)
			// What the process took from the system, garbage included.
			require.Less(t, int64(after.HeapSys)-int64(before.HeapSys), int64(3*inbox.DefaultMaxMemory))
		})
	}
}
