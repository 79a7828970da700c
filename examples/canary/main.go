// Command server answers with its version, and tells Prometheus how many
// requests it answered, how, and how long they took.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// version is what you change to release the next one. failEvery is what you
// change to see one taken back: with 4, every fourth request fails.
const (
	version   = "v1"
	failEvery = 0
)

var requests, failures, nanoseconds atomic.Int64

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	http.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/metrics", metrics)
	http.HandleFunc("/", answer)
	server := &http.Server{Addr: ":8080", ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		graceful, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(graceful)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
}

func answer(w http.ResponseWriter, _ *http.Request) {
	began := time.Now()
	defer func() { nanoseconds.Add(int64(time.Since(began))) }()
	n := requests.Add(1)
	if failEvery > 0 && n%int64(max(failEvery, 1)) == 0 {
		failures.Add(1)
		http.Error(w, "out of cheese", http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, version)
}

// metrics answers in Prometheus's text format, which needs no library.
func metrics(w http.ResponseWriter, _ *http.Request) {
	failed, all := failures.Load(), requests.Load()
	fmt.Fprintf(w, "# TYPE http_requests_total counter\n")
	fmt.Fprintf(w, "http_requests_total{code=\"200\"} %d\n", all-failed)
	fmt.Fprintf(w, "http_requests_total{code=\"500\"} %d\n", failed)
	fmt.Fprintf(w, "# TYPE http_request_duration_seconds summary\n")
	fmt.Fprintf(w, "http_request_duration_seconds_sum %g\n", time.Duration(nanoseconds.Load()).Seconds())
	fmt.Fprintf(w, "http_request_duration_seconds_count %d\n", all)
}
