package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"
)

// trafficTimeout is how long a request may take before it counts as failed.
const trafficTimeout = 5 * time.Second

// maxFailuresKept bounds the failures that are kept word by word; all are counted.
const maxFailuresKept = 20

// Traffic is a steady stream of requests against a Service: each on a
// connection of its own, so that every request is balanced anew.
type Traffic struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	report TrafficReport
	seen   chan struct{}
}

// TrafficReport counts what came back.
type TrafficReport struct {
	Requests int `json:"requests"`
	Failed   int `json:"failed"`
	// Versions counts the good answers by the version they named.
	Versions map[string]int `json:"versions"`
	// Failures are the first failures, in words.
	Failures []string `json:"failures,omitempty"`
}

// StartTraffic sends a request to url/version every interval until Stop. Each
// runs in a goroutine of its own; at most in-flight timeouts/interval are open.
func StartTraffic(ctx context.Context, url string, interval time.Duration) *Traffic {
	ctx, cancel := context.WithCancel(ctx)
	t := &Traffic{
		cancel: cancel,
		done:   make(chan struct{}),
		report: TrafficReport{Versions: map[string]int{}},
		seen:   make(chan struct{}),
	}
	client := &http.Client{
		Timeout:   trafficTimeout,
		Transport: &http.Transport{DisableKeepAlives: true},
	}
	go func() {
		defer close(t.done)
		var requests sync.WaitGroup
		defer requests.Wait()
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				requests.Go(func() { t.record(ask(client, url+"/version")) })
			}
		}
	}()
	return t
}

// ask is not bound to the stream's context: a request under way when the stream
// stops is finished and counted, not cut off and called a failure.
func ask(client *http.Client, url string) (version string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), trafficTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s", response.Status)
	}
	var body struct{ Version string }
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<16)).Decode(&body); err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	if body.Version == "" {
		return "", errors.New("the answer names no version")
	}
	return body.Version, nil
}

func (t *Traffic) record(version string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report.Requests++
	if err != nil {
		t.report.Failed++
		if len(t.report.Failures) < maxFailuresKept {
			t.report.Failures = append(t.report.Failures, time.Now().Format("15:04:05.000 ")+err.Error())
		}
	} else {
		t.report.Versions[version]++
	}
	close(t.seen)
	t.seen = make(chan struct{})
}

// Report returns the counts so far.
func (t *Traffic) Report() TrafficReport {
	t.mu.Lock()
	defer t.mu.Unlock()
	report := t.report
	report.Versions = maps.Clone(report.Versions)
	report.Failures = append([]string(nil), report.Failures...)
	return report
}

// WaitAnswer waits until count more answers than now named the version.
func (t *Traffic) WaitAnswer(ctx context.Context, version string, count int) error {
	target := t.Report().Versions[version] + count
	for {
		t.mu.Lock()
		seen, have := t.seen, t.report.Versions[version]
		t.mu.Unlock()
		if have >= target {
			return nil
		}
		select {
		case <-seen:
		case <-ctx.Done():
			return fmt.Errorf("wait for answers of %s: %w (traffic so far: %+v)", version, context.Cause(ctx), t.Report())
		}
	}
}

// Stop ends the stream, waits for requests under way and returns the counts.
func (t *Traffic) Stop() TrafficReport {
	t.cancel()
	<-t.done
	return t.Report()
}
