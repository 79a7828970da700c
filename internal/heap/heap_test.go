package heap

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPercent(t *testing.T) {
	for live, want := range map[uint64]int{
		0: 2300, 1 << 20: 2300, 2 << 20: 1100, 8 << 20: 200, 12 << 20: 100, 18 << 20: 40, 40 << 20: 40, 64 << 20: 40, 65 << 20: 100, 1 << 40: 100,
	} {
		require.Equal(t, want, percent(live), "%d live bytes", live)
	}
}

func TestPaceFollowsTheHeap(t *testing.T) {
	Pace()
	require.Eventually(t, func() bool { return gogc() > 1000 }, 10*time.Second, time.Millisecond, "a small heap")
	held := make([]byte, 30<<20)
	runtime.GC()
	require.Eventually(t, func() bool { return gogc() == 40 }, 10*time.Second, time.Millisecond, "a middling heap")
	runtime.KeepAlive(held) // and not after this
	runtime.GC()
	require.Eventually(t, func() bool { return gogc() > 1000 }, 10*time.Second, time.Millisecond, "a small heap again")
}

func gogc() uint64 {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
