//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/internal/testserver"
)

// stream is a steady stream of requests to a Service, a connection each:
// kube-proxy balances connections.
type stream struct {
	stop func()

	mu       sync.Mutex
	answers  []streamed
	failures []string
}

type streamed struct {
	began, ended time.Time
	version      string
}

func (w *world) address(service string) string {
	w.Helper()
	s, err := kube.CoreV1().Services(w.namespace).Get(w.ctx, service, metav1.GetOptions{})
	require.NoError(w, err)
	return "http://" + s.Spec.ClusterIP
}

// stream sends requests to a Service until it is ended.
func (w *world) stream(service string) *stream {
	w.Helper()
	return w.steady(service, 4, 10*time.Millisecond)
}

// steady sends requests at a pace of each sender's own.
func (w *world) steady(service string, senders int, every time.Duration) *stream {
	w.Helper()
	return w.steadyTo(w.address(service), senders, every)
}

// steadyTo sends requests to what need not be a Service.
func (w *world) steadyTo(address string, senders int, every time.Duration) *stream {
	w.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	s := &stream{}
	var sending sync.WaitGroup
	for range senders {
		sending.Go(func() {
			client := testserver.Client()
			pace := time.NewTicker(every)
			defer pace.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-pace.C:
				}
				began := time.Now()
				version, err := testserver.Ask(ctx, client, address)
				if ctx.Err() != nil {
					return
				}
				s.mu.Lock()
				if err != nil {
					s.failures = append(s.failures, fmt.Sprintf("%s: %s", time.Now().Format("15:04:05.000"), err))
				} else {
					s.answers = append(s.answers, streamed{began, time.Now(), version})
				}
				s.mu.Unlock()
			}
		})
	}
	s.stop = func() { cancel(); sending.Wait() }
	w.Cleanup(s.stop)
	return s
}

// end stops the stream and returns how many requests each version answered, and
// how many of old were still sent to it when new had answered already.
func (s *stream) end(older, newer string) (answered map[string]int, mixed int) {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	answered = map[string]int{}
	var first time.Time
	for _, a := range s.answers {
		answered[a.version]++
		if a.version == newer && (first.IsZero() || a.ended.Before(first)) {
			first = a.ended
		}
	}
	for _, a := range s.answers {
		if a.version == older && !first.IsZero() && a.began.After(first) {
			mixed++
		}
	}
	return answered, mixed
}

// answersWith waits until the Service answers with the version.
func (w *world) answersWith(service, version string) {
	w.Helper()
	client, address := testserver.Client(), w.address(service)
	for {
		got, err := testserver.Ask(w.ctx, client, address)
		if err == nil && got == version {
			return
		}
		require.NoError(w, w.ctx.Err(), "%s never answered with %s; last %q, %v", service, version, got, err)
	}
}
