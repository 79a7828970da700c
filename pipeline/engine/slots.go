package engine

import (
	"slices"
	"sync"
)

// slots hands out the right to run an attempt: one of a bounded number, and
// for deploys the environment, which one stage holds at a time. Repositories
// take turns: a free slot goes to the one that uses the fewest.
type slots struct {
	mu           sync.Mutex
	free         int
	held         map[holder]claim
	byRepository map[string]int
	environments map[string]holder
	queue        []waiting // in the order of asking
	queued       map[holder]bool
}

// holder is a stage of a run.
type holder struct{ run, stage string }

// claim is what a stage needs to run. An empty environment needs none.
type claim struct{ repository, environment string }

type waiting struct {
	holder
	claim
	wake func()
}

func newSlots(n int) *slots {
	return &slots{free: n, held: map[holder]claim{}, byRepository: map[string]int{}, environments: map[string]holder{}, queued: map[holder]bool{}}
}

// acquire tells whether the stage has its slot. If not it is queued, and wake
// is called, from any goroutine, once it has. Asking again changes nothing.
// busy names the run that holds the environment, if that is what is missing.
func (s *slots) acquire(h holder, c claim, wake func()) (ok bool, busy string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.held[h]; ok {
		return true, ""
	}
	if !s.queued[h] {
		s.queued[h] = true
		s.queue = append(s.queue, waiting{h, c, wake})
		s.grant(h)
	}
	if _, ok := s.held[h]; ok {
		return true, ""
	}
	if owner, taken := s.environments[c.environment]; taken && c.environment != "" && owner != h {
		busy = owner.run
	}
	return false, busy
}

// reserve gives the environment to a stage that began to deploy in an earlier
// life of the worker, so that nobody else comes in between.
func (s *slots) reserve(h holder, environment string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.environments[environment]; !taken {
		s.environments[environment] = h
	}
}

// yield gives back the slot at the end of an attempt. The environment stays
// with the stage: nobody deploys between two tries.
func (s *slots) yield(h holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.giveBack(h)
	s.grant(holder{})
}

func (s *slots) giveBack(h holder) {
	c, ok := s.held[h]
	if !ok {
		return
	}
	delete(s.held, h)
	s.free++
	if s.byRepository[c.repository]--; s.byRepository[c.repository] == 0 {
		delete(s.byRepository, c.repository)
	}
}

// release gives back all that the stage holds or waits for.
func (s *slots) release(h holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(h)
	s.vacate(func(owner holder) bool { return owner == h })
	s.grant(holder{})
}

// leave gives back the slot and the place in the queue.
func (s *slots) leave(h holder) {
	s.giveBack(h)
	if s.queued[h] {
		delete(s.queued, h)
		s.queue = slices.DeleteFunc(s.queue, func(w waiting) bool { return w.holder == h })
	}
}

// vacate frees environments.
func (s *slots) vacate(of func(owner holder) bool) {
	for environment, owner := range s.environments {
		if of(owner) {
			delete(s.environments, environment)
		}
	}
}

// leaveRun gives back what the stages of a run use and ask for, and keeps their
// environments: the run is handed over, and the deploy it is in the middle of
// goes on before any other begins.
func (s *slots) leaveRun(run string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveAll(run)
	s.grant(holder{})
}

// releaseRun gives back what any stage of a run holds: it ended elsewhere.
func (s *slots) releaseRun(run string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveAll(run)
	s.vacate(func(owner holder) bool { return owner.run == run })
	s.grant(holder{})
}

func (s *slots) leaveAll(run string) {
	for h := range s.held {
		if h.run == run {
			s.leave(h)
		}
	}
	for h := range s.queued {
		if h.run == run {
			s.leave(h)
		}
	}
}

// grant hands out what is free. The asker sees its own grant by itself.
func (s *slots) grant(asker holder) {
	for s.free > 0 {
		best := -1
		for i := range s.queue {
			w := &s.queue[i]
			if owner, taken := s.environments[w.environment]; taken && w.environment != "" && owner != w.holder {
				continue
			}
			if best < 0 || s.byRepository[w.repository] < s.byRepository[s.queue[best].repository] {
				best = i
			}
		}
		if best < 0 {
			return
		}
		w := s.queue[best]
		s.queue = slices.Delete(s.queue, best, best+1)
		delete(s.queued, w.holder)
		s.free--
		s.held[w.holder] = w.claim
		s.byRepository[w.repository]++
		if w.environment != "" {
			s.environments[w.environment] = w.holder
		}
		if w.holder != asker {
			w.wake()
		}
	}
}
