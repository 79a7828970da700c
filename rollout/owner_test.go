package rollout

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// owns is own for an application that has been rolled out once.
func owns(t *testing.T, c *Controller, app string) *driver {
	t.Helper()
	d, err := c.own(t.Context(), c.store(Target{App: app, Namespace: "x"}), nil, func(Progress) {})
	require.NoError(t, err)
	if d.record.empty() {
		d.record.Revisions, d.record.Current = 1, &Rollout{Revision: 1, State: Verified}
		require.NoError(t, d.save(t.Context()))
	}
	return d
}

func leasesIn(t *testing.T, kube *fake.Clientset) (holders []string) {
	t.Helper()
	list, err := kube.CoordinationV1().Leases("x").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	for i := range list.Items {
		holders = append(holders, holderOf(&list.Items[i]))
	}
	return holders
}

// However many applications a process owns in a namespace, one lease says that it
// lives, and goes with the last of them.
func TestOneLeaseForAllThatAProcessOwns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		versioned(kube)
		c := process(kube)
		var drivers []*driver
		for i := range 30 {
			drivers = append(drivers, owns(t, c, fmt.Sprintf("app-%d", i)))
		}
		kube.ClearActions()
		time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock
		require.Len(t, leasesIn(t, kube), 1)
		renewals := 0
		for _, action := range kube.Actions() {
			if action.GetVerb() == "update" {
				renewals++
			}
		}
		require.InDelta(t, int(time.Minute/leaseRenew), renewals, 1)
		for _, d := range drivers {
			_, err := d.presence.held()
			require.NoError(t, err)
			require.Len(t, leasesIn(t, kube), 1)
			d.close()
		}
		require.Empty(t, leasesIn(t, kube))
		for i := range 30 {
			record, _, err := c.store(Target{App: fmt.Sprintf("app-%d", i), Namespace: "x"}).load(t.Context())
			require.NoError(t, err)
			require.Nil(t, record.Owner)
		}
	})
}

// A process that sleeps for long is called dead by whoever takes one of its
// applications over, and stops to act for all of them when it wakes up.
func TestWhoWasCalledDeadStopsToAct(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		versioned(kube)
		asleep := atomic.Bool{}
		sleeper := process(kube, noAnswer(asleep.Load))
		one, two := owns(t, sleeper, "one"), owns(t, sleeper, "two")
		asleep.Store(true)
		begun := time.Now()
		c := process(kube)
		taken := owns(t, c, "one")
		require.Equal(t, leaseTTL, time.Since(begun).Round(time.Second), "not before its lease has ended")
		require.EqualValues(t, one.record.Fence+1, taken.record.Fence)
		away, err := two.presence.held()
		require.NoError(t, err)
		require.Positive(t, away, "by itself it had stopped before that")
		asleep.Store(false)
		time.Sleep(leaseTTL) //nolint:forbidigo // the bubble's clock
		for _, d := range []*driver{one, two} {
			_, err := d.presence.held()
			require.ErrorIs(t, err, ErrLost)
		}
		begun = time.Now()
		other := owns(t, c, "two")
		require.Zero(t, time.Since(begun), "its owner is known to be dead")
		require.ErrorIs(t, one.save(t.Context()), ErrLost, "and may not write")
		other.close()
		taken.close()
		require.Equal(t, []string{""}, leasesIn(t, kube), "the dead one's says until when it lived")
		again := owns(t, sleeper, "two")
		require.Len(t, leasesIn(t, kube), 2, "a new life")
		_, err = again.presence.held()
		require.NoError(t, err)
		for _, d := range []*driver{one, two, again} {
			d.close()
		}
		require.Len(t, leasesIn(t, kube), 1)
	})
}

// noAnswer is an API server that cannot be reached while away.
func noAnswer(away func() bool) trouble {
	return func(clienttesting.Action) (before, after error) {
		if away() {
			return apierrors.NewServiceUnavailable("away"), nil
		}
		return nil, nil
	}
}

// The leases of processes that died long ago go with the next death.
func TestLeasesOfTheDeadGo(t *testing.T) {
	kube := fake.NewClientset()
	versioned(kube)
	for name, age := range map[string]time.Duration{"ancient": 2 * leaseKept, "recent": leaseKept / 2} {
		lease := leaseOf(name)
		lease.Spec.RenewTime.Time = lease.Spec.RenewTime.Add(-age)
		_, err := kube.CoordinationV1().Leases("x").Create(t.Context(), lease, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	c := process(kube)
	record := &Record{App: "shop", Namespace: "x", Revisions: 1, Fence: 1, Owner: &Owner{Process: "recent", Claim: "c"}, Current: &Rollout{Revision: 1, State: Verified}}
	_, err := c.store(shop).save(t.Context(), record, "")
	require.NoError(t, err)
	d := owns(t, c, "shop")
	require.ElementsMatch(t, []string{"", d.presence.process}, leasesIn(t, kube))
	d.close()
}

// A presence that was lost while its user waited is not what a claim names.
func TestAClaimNamesNoDeadProcess(t *testing.T) {
	kube := fake.NewClientset()
	versioned(kube)
	c := process(kube)
	s := c.store(shop)
	lost, err := s.stay(t.Context(), nil, time.Now)
	require.NoError(t, err)
	same, err := s.stay(t.Context(), lost, time.Now)
	require.NoError(t, err)
	require.Same(t, lost, same)
	lost.lose("another")
	other, err := s.stay(t.Context(), lost, time.Now)
	require.NoError(t, err)
	require.NotEqual(t, lost.process, other.process)
	other.leave()
}

// The API server takes a claim, and its answer is lost.
func TestAClaimWithoutAnAnswer(t *testing.T) {
	kube := fake.NewClientset()
	versioned(kube)
	lose := false
	c := process(kube, func(action clienttesting.Action) (before, after error) {
		if !lose || action.GetVerb() != "update" {
			return nil, nil
		}
		lose = false
		return nil, apierrors.NewTimeoutError("no answer", 0)
	})
	owns(t, c, "shop").close()
	lose = true
	d := owns(t, c, "shop")
	require.False(t, lose)
	require.EqualValues(t, 2, d.record.Fence, "the first write counts")
	d.close()
}

// What cannot be given up is given up later, while the process lives on.
func TestWhatCannotBeGivenUpIsGivenUpLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		versioned(kube)
		away := atomic.Bool{}
		c := process(kube, func(action clienttesting.Action) (before, after error) {
			if away.Load() && action.GetResource().Resource == "configmaps" {
				return apierrors.NewServiceUnavailable("away"), nil
			}
			return nil, nil
		})
		stays, goes := owns(t, c, "stays"), owns(t, c, "goes")
		away.Store(true)
		goes.close()
		away.Store(false)
		waiting := time.Now()
		owns(t, process(kube), "goes").close()
		require.LessOrEqual(t, time.Since(waiting), 2*leaseRenew)
		stays.close()
		require.Empty(t, leasesIn(t, kube))
	})
}

// A process takes an application without knowing it, and gives up: nobody has to
// wait for the end of that process.
func TestAClaimThatNobodyKnowsOfIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		versioned(kube)
		ctx, cancel := context.WithCancel(t.Context())
		lose := atomic.Bool{}
		c := process(kube, func(action clienttesting.Action) (before, after error) {
			if action.GetVerb() != "update" || action.GetResource().Resource != "configmaps" || !lose.CompareAndSwap(true, false) {
				return nil, nil
			}
			cancel()
			return nil, apierrors.NewTimeoutError("no answer", 0)
		})
		owns(t, c, "shop").close()
		stays := owns(t, c, "stays")
		lose.Store(true)
		_, err := c.own(ctx, c.store(shop), nil, func(Progress) {})
		require.ErrorIs(t, err, context.Canceled)
		record, _, err := c.store(shop).load(t.Context())
		require.NoError(t, err)
		require.NotNil(t, record.Owner)
		waiting := time.Now()
		owns(t, process(kube), "shop").close()
		require.LessOrEqual(t, time.Since(waiting), 2*leaseRenew)
		stays.close()
	})
}

// Nothing is left of an application whose first release was never begun.
func TestNothingIsLeftOfWhatNeverBegan(t *testing.T) {
	kube := fake.NewClientset()
	versioned(kube)
	c := process(kube)
	d, err := c.own(t.Context(), c.store(shop), nil, func(Progress) {})
	require.NoError(t, err)
	_, _, err = c.Status(t.Context(), shop)
	require.ErrorIs(t, err, ErrNotFound)
	records, err := c.List(t.Context(), "x")
	require.NoError(t, err)
	require.Empty(t, records)
	d.close()
	_, version, err := c.store(shop).load(t.Context())
	require.NoError(t, err)
	require.Empty(t, version)
}

// Many processes want the same application while answers get lost and processes
// die: never do two own it at once, and in the end everybody had it.
func TestOneOwnerAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		versioned(kube)
		owns(t, process(kube), "shop").close()
		random := rand.New(rand.NewPCG(1, 2))
		var mu sync.Mutex // of random
		chance := func(n int) bool {
			mu.Lock()
			defer mu.Unlock()
			return random.IntN(n) == 0
		}
		unreliable := func(clienttesting.Action) (before, after error) {
			switch {
			case chance(10):
				return apierrors.NewServiceUnavailable("away"), nil
			case chance(10):
				return nil, apierrors.NewTimeoutError("no answer", 0)
			}
			return nil, nil
		}
		var owner atomic.Pointer[driver]
		var everybody sync.WaitGroup
		for range 12 {
			everybody.Go(func() {
				dies := &atomic.Bool{}
				c := process(kube, noAnswer(dies.Load), unreliable)
				c.clients.patience = time.Hour
				for range 5 {
					d, err := c.own(t.Context(), c.store(shop), nil, func(Progress) {})
					if err != nil {
						t.Errorf("own: %v", err)
						return
					}
					if before := owner.Swap(d); before != nil {
						if away, err := before.presence.held(); away == 0 && err == nil {
							t.Error("two own it at once")
						}
					}
					if chance(4) {
						dies.Store(true) // and its lease stays as it is
						d.presence.stop()
						return
					}
					owner.CompareAndSwap(d, nil)
					d.close()
				}
			})
		}
		everybody.Wait()
	})
}
