package inbox_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/triggers/forge/github"
	"github.com/tidegate-ci/tidegate/triggers/inbox/sqlite"
)

// BenchmarkWebhooks sends signed pushes over real connections; each is durable
// before its 202. The clients' work is part of the figure.
func BenchmarkWebhooks(b *testing.B) {
	for _, size := range []int{6900, 21000} {
		b.Run(fmt.Sprintf("%d bytes", size), func(b *testing.B) {
			store := openStore(b, sqlite.Options{MaxPending: 10_000_000})
			server := serve(b, store, nil)
			push := bytes.ReplaceAll(payload(b, "push_new_branch"), []byte("\n "), []byte("\n"))
			for bytes.Contains(push, []byte("\n ")) {
				push = bytes.ReplaceAll(push, []byte("\n "), []byte("\n"))
			}
			if pad := size - len(push) - 20; pad > 0 {
				push = append([]byte(`{"padding":"`+strings.Repeat("x", pad)+`",`), push[1:]...)
			}
			signature := github.Sign(push, secret)
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}}
			var next atomic.Int64
			b.SetParallelism(32)
			b.SetBytes(int64(len(push)))
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					request, err := http.NewRequest(http.MethodPost, server.URL, bytes.NewReader(push))
					if err != nil {
						b.Error(err)
						return
					}
					request.Header.Set("Content-Type", "application/json")
					request.Header.Set(github.HeaderDelivery, fmt.Sprint(next.Add(1)))
					request.Header.Set(github.HeaderEvent, "push")
					request.Header.Set(github.HeaderSignature, signature)
					response, err := client.Do(request)
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
					if response.StatusCode != http.StatusAccepted {
						b.Errorf("status %d", response.StatusCode)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "webhooks/s")
			require.NotZero(b, next.Load())
			client.CloseIdleConnections()
		})
	}
}
