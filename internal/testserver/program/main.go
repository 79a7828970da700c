// Command testserver is what the end-to-end tests deploy: a web server whose
// failures are chosen by its environment.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func duration(name string) (time.Duration, bool) {
	value := os.Getenv(name)
	if value == "" {
		return 0, false
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(2)
	}
	return d, true
}

// check is the whole of a smoke test: it asks the address that the gate gave it
// and fails unless the version is the one that CHECK names.
func check(want string) {
	client := &http.Client{Timeout: 10 * time.Second}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+os.Getenv("TIDEGATE_CANARY_ADDRESS")+"/", http.NoBody) //nolint:gosec // the address is the rollout's word, and asking it is the point
	if err != nil {
		fmt.Println("address:", err)
		os.Exit(4)
	}
	response, err := client.Do(request) //nolint:gosec // as above
	if err != nil {
		fmt.Println("asking:", err)
		os.Exit(4)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	_ = response.Body.Close() // only read from
	fmt.Printf("revision %s step %s answers %q (%v)\n", os.Getenv("TIDEGATE_REVISION"), os.Getenv("TIDEGATE_STEP"), body, err)
	if !strings.HasPrefix(string(body), want+" ") {
		fmt.Println("wrong version: want", want)
		os.Exit(3)
	}
	os.Exit(0)
}

func main() {
	if want := os.Getenv("CHECK"); want != "" {
		check(want)
	}
	fmt.Println("starting version", os.Getenv("VERSION"))
	start := time.Now()
	crash := func() {
		fmt.Println("fatal: out of cheese")
		os.Exit(7)
	}
	if after, ok := duration("CRASH_AFTER"); ok {
		time.AfterFunc(after, crash)
	}
	// From the first request on, or the first probe that says ready, however long the
	// way to it took.
	var asked, ready sync.Once
	afterRequest, breaks := duration("CRASH_AFTER_REQUEST")
	afterReady, breaksReady := duration("CRASH_AFTER_READY")
	readyAfter, _ := duration("READY_AFTER")
	flap, flaps := duration("FLAP")
	http.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		up := time.Since(start)
		if up < readyAfter || os.Getenv("NEVER_READY") != "" || (flaps && (up/flap)%2 == 1) {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if breaksReady {
			ready.Do(func() { time.AfterFunc(afterReady, crash) })
		}
	})
	// Every FAIL_EVERY-th request fails.
	failEvery, err := strconv.ParseInt(os.Getenv("FAIL_EVERY"), 10, 64)
	if err != nil && os.Getenv("FAIL_EVERY") != "" {
		fmt.Fprintln(os.Stderr, "FAIL_EVERY:", err)
		os.Exit(2)
	}
	var requests, failures atomic.Int64
	http.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "shop_requests_total{code=\"500\"} %d\n", failures.Load())
		fmt.Fprintf(w, "shop_requests_total{code=\"200\"} %d\n", requests.Load()-failures.Load())
	})
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		if breaks {
			asked.Do(func() { time.AfterFunc(afterRequest, crash) })
		}
		if n := requests.Add(1); failEvery > 0 && n%failEvery == 0 {
			failures.Add(1)
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, os.Getenv("VERSION"), os.Getenv("GREETING"))
	})
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		os.Exit(0)
	}()
	server := &http.Server{Addr: ":8080", ReadHeaderTimeout: time.Minute}
	if err := server.ListenAndServe(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
