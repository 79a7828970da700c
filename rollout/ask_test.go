package rollout

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// The owner that was given a command is dead; another process takes over, answers
// and stays the owner for an hour. Whoever asked must not wait for that hour.
func TestACommandIsAnsweredByWhoeverTakesOver(t *testing.T) {
	for name, later := range map[string]func(*Record){
		"by the last answer": func(*Record) {},
		"by one before it":   func(r *Record) { r.Reply = &Reply{ID: "another", Accepted: true, At: time.Now()} },
		"by the end": func(r *Record) {
			r.Reply, r.Current.Said = nil, nil
			r.Current.State = RolledBack
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { answeredByAnother(t, later) })
		})
	}
}

func answeredByAnother(t *testing.T, later func(*Record)) {
	kube := fake.NewClientset()
	versioned(kube)
	c := process(kube)
	s := c.store(shop)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The dead owner's last sign of life, and the other's that takes over.
	lease, err := kube.CoordinationV1().Leases("x").Create(ctx, leaseOf("dead"), metav1.CreateOptions{})
	require.NoError(t, err)
	record := &Record{App: "shop", Namespace: "x", Revisions: 1, Fence: 1, Owner: &Owner{Process: "dead", Claim: "c1"}, Current: &Rollout{Revision: 1, State: Canary, Step: 1,
		Strategy: Strategy{Kind: CanaryStrategy, Steps: []Step{{Weight: 20, Hold: time.Hour}, {Weight: 50, Hold: time.Hour}}}}}
	_, err = s.save(ctx, record, "")
	require.NoError(t, err)

	type outcome struct {
		reply Reply
		err   error
	}
	told := make(chan outcome, 1)
	go func() {
		reply, err := c.Promote(ctx, shop, "oncall", false, nil)
		told <- outcome{reply, err}
	}()
	time.Sleep(leaseTTL - time.Millisecond) //nolint:forbidigo // the bubble's clock
	synctest.Wait()
	lease.Spec.HolderIdentity = new(string)
	_, err = kube.CoordinationV1().Leases("x").Update(ctx, lease, metav1.UpdateOptions{})
	require.NoError(t, err)
	_, err = kube.CoordinationV1().Leases("x").Create(ctx, leaseOf("another"), metav1.CreateOptions{})
	require.NoError(t, err)
	record, version, err := s.load(ctx)
	require.NoError(t, err)
	record.claim("another", "c2", time.Now())
	_, err = s.save(ctx, record, version)
	require.NoError(t, err)
	time.Sleep(2 * time.Millisecond) //nolint:forbidigo // the bubble's clock
	synctest.Wait()                  // who asked waits for the other by now
	record, version, err = s.load(ctx)
	require.NoError(t, err)
	require.NotNil(t, record.Command)
	require.NoError(t, record.obey(time.Now()))
	later(record)
	_, err = s.save(ctx, record, version)
	require.NoError(t, err)
	for {
		select {
		case o := <-told:
			if record.Live() {
				require.NoError(t, o.err)
				require.True(t, o.reply.Accepted)
			} else {
				require.ErrorIs(t, o.err, ErrRefused)
			}
			return
		case <-time.After(leaseRenew):
			_, err := kube.CoordinationV1().Leases("x").Update(ctx, leaseOf("another"), metav1.UpdateOptions{})
			require.NoError(t, err)
		}
	}
}

// leaseOf is a lease that process has just renewed.
func leaseOf(process string) *coordinationv1.Lease {
	at := metav1.NewMicroTime(time.Now())
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: leaseName(process), Namespace: "x", Labels: map[string]string{labelRecord: "true"}},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &process, RenewTime: &at}}
}

// Who drove a rollout to its end is told how it went, as who started it is.
func TestWhoDroveARolloutToItsEndIsToldHowItWent(t *testing.T) {
	for _, test := range []struct {
		asked CommandKind
		r     Rollout
		want  error
	}{
		{CommandResume, Rollout{State: Canary}, nil}, // paused again
		{CommandResume, Rollout{State: Verified}, nil},
		{CommandResume, Rollout{State: RolledBack, Ending: EndedByFailure, Failure: &Failure{}}, ErrFailed},
		{CommandPromote, Rollout{State: Failed, Failure: &Failure{}}, ErrFailed},
		{CommandApprove, Rollout{State: Superseded}, ErrSuperseded},
		{CommandPromote, Rollout{State: RolledBack, Ending: EndedByAbort}, ErrAborted}, // by someone else
		{CommandAbort, Rollout{State: RolledBack, Ending: EndedByAbort}, nil},
		{CommandReject, Rollout{State: RolledBack, Ending: EndedByFailure, Failure: &Failure{}}, nil},
	} {
		require.ErrorIs(t, endOf(test.r, Command{Kind: test.asked}), test.want, "%s, %s", test.asked, test.r.State)
	}
}
