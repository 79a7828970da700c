// Command traffic sends requests to a URL, 100 a second, until it is stopped: a
// canary that nobody uses tells nothing, and is not promoted.
package main

import (
	"fmt"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: traffic URL")
		os.Exit(2)
	}
	// A connection for each request: a Service balances connections.
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range time.Tick(10 * time.Millisecond) {
		go func() {
			if answer, err := client.Get(os.Args[1]); err == nil {
				answer.Body.Close()
			}
		}()
	}
}
