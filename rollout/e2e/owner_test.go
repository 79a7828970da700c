//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegate-ci/tidegate/rollout"
)

// Three processes are given the same work while somebody else writes to the
// record all the time, and then a fourth takes the lease away. One revision
// comes of it, and whoever has lost the lease stops.
func TestOneOwnerAtATime(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.startVerified(v1)
	request := w.request(v2, 0, rollout.Step{Weight: 34, Hold: 6 * time.Second})
	request.RunID = "run"
	tell := w.told()
	log := w.log(tell)
	type outcome struct {
		result rollout.Result
		err    error
	}
	const processes = 3
	ended := make(chan outcome, processes)
	for range processes {
		controller := w.controller()
		go func() {
			result, err := controller.Start(w.ctx, request, log)
			ended <- outcome{result, err}
		}()
	}
	meddling, stop := context.WithCancel(w.ctx)
	var meddler sync.WaitGroup
	meddler.Go(func() {
		for n := 0; meddling.Err() == nil; n++ {
			body := fmt.Appendf(nil, `{"metadata":{"annotations":{"meddled":"%d"}}}`, n)
			_, _ = kube.CoreV1().ConfigMaps(w.namespace).Patch(meddling, "tidegate-shop", types.MergePatchType, body, metav1.PatchOptions{})
		}
	})
	w.Cleanup(func() { stop(); meddler.Wait() })
	w.await(tell, rollout.Canary, "held until")

	record, _, err := w.controller().Status(w.ctx, w.target())
	require.NoError(t, err)
	at := time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
	_, err = kube.CoordinationV1().Leases(w.namespace).Patch(w.ctx, "tidegate-"+record.Owner.Process, types.MergePatchType,
		fmt.Appendf(nil, `{"spec":{"holderIdentity":"thief","renewTime":%q}}`, at), metav1.PatchOptions{})
	require.NoError(t, err)
	first := <-ended
	require.ErrorIs(t, first.err, rollout.ErrLost)
	require.ErrorContains(t, first.err, "thief")
	w.age() // the thief died long ago
	for range processes - 1 {
		o := <-ended
		require.NoError(t, o.err)
		require.Equal(t, 2, o.result.Rollout.Revision)
		require.Equal(t, rollout.Verified, o.result.Rollout.State)
	}
	record, _, err = w.controller().Status(w.ctx, w.target())
	require.NoError(t, err)
	require.Equal(t, 2, record.Revisions)
	w.settles(map[string]int{v2: 3})
	w.noCanary()
}

// However a release is taken back, someone hears of it: when that begins, and
// when it has ended.
func TestEveryRollbackNotifies(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.startVerified(v1)
	var mu sync.Mutex
	var heard []rollout.State
	hear := func(record rollout.Record) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, record.Current.State)
	}
	controller, err := rollout.New(rollout.Cluster{Config: config}, rollout.Options{Notify: hear, Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))})
	require.NoError(t, err)
	expect := func(states ...rollout.State) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, states, heard)
		heard = nil
	}
	_, err = controller.Start(w.ctx, w.request(images.Missing(), 0), w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	expect(rollout.RollingBack, rollout.RolledBack)

	tell := w.told()
	done := make(chan error, 1)
	go func() {
		_, err := controller.Start(w.ctx, w.request(v2, 0, rollout.Step{Weight: 34, Hold: time.Hour}), w.log(tell))
		done <- err
	}()
	w.await(tell, rollout.Canary, "held until")
	_, err = w.controller().Abort(w.ctx, w.target(), "oncall", nil)
	require.NoError(t, err)
	require.ErrorIs(t, <-done, rollout.ErrAborted)
	expect(rollout.RollingBack, rollout.RolledBack)

	request := w.request(v2, 0)
	_, err = controller.Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	expect(rollout.Verified)
	_, err = controller.Rollback(w.ctx, w.target(), 0, "oncall", w.log(nil))
	require.NoError(t, err)
	expect(rollout.Verified)
	w.settles(map[string]int{v1: 3})
}
