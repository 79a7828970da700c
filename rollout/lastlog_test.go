package rollout

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tidegate-ci/tidegate/rollout/health"
)

// slowLog is a driver whose cluster gives a log when it is told to.
func slowLog(t *testing.T) (d *driver, give chan struct{}) {
	t.Helper()
	give = make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-give:
			_, _ = w.Write([]byte("one\nfatal: out of cheese\n"))
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	kube, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	require.NoError(t, err)
	return &driver{store: &store{clients: &clients{kube: kube, log: zap.NewNop()}, namespace: "shop"},
		record: &Record{Current: &Rollout{Revision: 2, Failure: &Failure{}}}}, give
}

func TestLogThatComesInTime(t *testing.T) {
	d, give := slowLog(t)
	close(give)
	require.Equal(t, []string{"one", "fatal: out of cheese"}, d.readLog(t.Context(), &health.Container{Pod: "p", Name: "c"}, time.Minute))
	require.Nil(t, d.late)
}

// A busy node's log does not hold up going back, and is in the record in the end.
func TestLogThatComesLate(t *testing.T) {
	d, give := slowLog(t)
	require.Nil(t, d.readLog(t.Context(), &health.Container{Pod: "p", Name: "c"}, 0))
	d.takeLog(false)
	require.Nil(t, d.record.Current.Failure.Log)
	close(give)
	d.takeLog(true)
	require.Equal(t, []string{"one", "fatal: out of cheese"}, d.record.Current.Failure.Log)
	require.Nil(t, d.late)
}

func TestLogOfAnEarlierFailure(t *testing.T) {
	d, give := slowLog(t)
	require.Nil(t, d.readLog(t.Context(), &health.Container{Pod: "p", Name: "c"}, 0))
	d.record.Current = &Rollout{Revision: 3, Failure: &Failure{}}
	close(give)
	d.takeLog(true)
	require.Nil(t, d.record.Current.Failure.Log)
}

func TestLogThatNeverComes(t *testing.T) {
	d, _ := slowLog(t)
	require.Nil(t, d.readLog(t.Context(), &health.Container{Pod: "p", Name: "c"}, 0))
	d.dropLog()
	require.Nil(t, d.late)
}

// A container that was started again between the news of its end and the reading
// has its log in the place of the run before.
func TestLogOfAContainerThatStartedAgain(t *testing.T) {
	for _, again := range []bool{false, true} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			previous := r.URL.Query().Get("previous") == "true"
			switch {
			case previous && !again:
				http.Error(w, "previous terminated container not found", http.StatusBadRequest)
			case !previous && again:
				_, _ = w.Write([]byte("starting\n"))
			default:
				_, _ = w.Write([]byte("starting\nfatal: out of cheese\n"))
			}
		}))
		t.Cleanup(server.Close)
		kube, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
		require.NoError(t, err)
		d := &driver{store: &store{clients: &clients{kube: kube, log: zap.NewNop()}, namespace: "shop"}}
		require.Equal(t, []string{"starting", "fatal: out of cheese"}, d.lastLines(t.Context(), &health.Container{Pod: "p", Name: "c", First: true}))
	}
}
