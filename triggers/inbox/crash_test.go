package inbox_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/forge/github"
	"github.com/tidegate-ci/tidegate/triggers/inbox"
	"github.com/tidegate-ci/tidegate/triggers/inbox/sqlite"
)

const crashEnv = "TIDEGATE_TEST_INBOX"

// TestMain becomes the server that the crash test kills.
func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		if err := crashServer(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func crashServer(path string) error {
	store, err := sqlite.Open(ctx, path, sqlite.Options{})
	if err != nil {
		return err
	}
	handler, err := inbox.NewHandler(inbox.Config{Forge: github.Forge{}, Store: store, Repositories: shop})
	if err != nil {
		return err
	}
	server := httptest.NewServer(handler)
	fmt.Println(server.URL)
	return inbox.Processor{Store: store, Handle: func(context.Context, event.Event) (string, error) { return "handled", nil }}.Run(ctx)
}

// A server is killed by SIGKILL again and again while many senders deliver:
// every event that was acknowledged is there, once, and is handled in the end.
func TestKilledServerLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox.db")
	body := payload(t, "push")
	var (
		mu           sync.Mutex
		acknowledged []string
	)
	for round := range 5 {
		server := exec.Command(os.Args[0])
		server.Env = append(os.Environ(), crashEnv+"="+path)
		server.Stderr = os.Stderr
		server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		stdout, err := server.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, server.Start())
		url, err := bufio.NewReader(stdout).ReadString('\n')
		require.NoError(t, err)
		url = strings.TrimSpace(url)

		enough := make(chan struct{})
		var wait sync.WaitGroup
		target := len(acknowledged) + 40 + 30*round
		for range 8 {
			wait.Go(func() {
				for {
					id := uuid.NewString()
					request, err := http.NewRequest(http.MethodPost, url, strings.NewReader(string(body)))
					if err != nil {
						t.Error(err)
						return
					}
					request.Header.Set("Content-Type", "application/json")
					request.Header.Set(github.HeaderDelivery, id)
					request.Header.Set(github.HeaderEvent, "push")
					request.Header.Set(github.HeaderSignature, github.Sign(body, secret))
					response, err := http.DefaultClient.Do(request)
					if err != nil {
						return // killed
					}
					_ = response.Body.Close()
					if response.StatusCode != http.StatusAccepted {
						t.Errorf("status %d", response.StatusCode)
						return
					}
					mu.Lock()
					acknowledged = append(acknowledged, id)
					if len(acknowledged) == target {
						close(enough)
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		require.NoError(t, server.Process.Kill())
		wait.Wait()
		require.Error(t, server.Wait())
		http.DefaultClient.CloseIdleConnections()
	}

	store, err := sqlite.Open(ctx, path, sqlite.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	for _, id := range acknowledged {
		_, err := store.Get(ctx, id)
		require.NoError(t, err, "an acknowledged event is lost")
	}
	pending := func() int {
		list, err := store.List(ctx, inbox.Filter{Status: inbox.Pending, Limit: 1000})
		require.NoError(t, err)
		return len(list)
	}
	for left := pending(); left > 0; left = pending() {
		t.Logf("%d acknowledged, at least %d left pending by the last kill", len(acknowledged), left)
		var handled atomic.Int64
		enough := make(chan struct{})
		run(t, inbox.Processor{Store: store, Handle: func(context.Context, event.Event) (string, error) {
			if handled.Add(1) == int64(left) {
				close(enough)
			}
			return "", nil
		}}, enough)
	}
}
