package sqlite

import (
	"context"
	"sync"
)

// watchers tells who watches which run. Notifications coalesce: a watcher that
// has one waiting needs no second.
type watchers struct {
	mu     sync.Mutex
	byRun  map[string]map[chan struct{}]struct{}
	owned  sync.WaitGroup
	closed chan struct{}
}

func newWatchers() *watchers {
	return &watchers{byRun: map[string]map[chan struct{}]struct{}{}, closed: make(chan struct{})}
}

func (w *watchers) notify(run string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range [2]string{run, ""} {
		for ch := range w.byRun[key] {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
}

func (w *watchers) close() {
	w.mu.Lock()
	close(w.closed) // under the lock: no watcher is added after it
	w.mu.Unlock()
	w.owned.Wait()
}

// Watch implements journal.Journal. It hears of what this process stores.
func (j *Journal) Watch(ctx context.Context, runID string) <-chan struct{} {
	w := j.watch
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.closed:
		return ch // it will hear of nothing
	default:
	}
	if w.byRun[runID] == nil {
		w.byRun[runID] = map[chan struct{}]struct{}{}
	}
	w.byRun[runID][ch] = struct{}{}
	w.owned.Go(func() {
		select {
		case <-ctx.Done():
		case <-w.closed:
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.byRun[runID], ch)
		if len(w.byRun[runID]) == 0 {
			delete(w.byRun, runID)
		}
	})
	return ch
}
