package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestAdmit(t *testing.T) {
	run := func(id, repository, group string) candidate {
		return candidate{id: id, traits: traits{repository: repository, group: group}}
	}
	with := func(c candidate, change func(*candidate)) candidate { change(&c); return c }
	cancelling := func(c *candidate) { c.cancelInProgress = true }
	active := func(c *candidate) { c.active, c.started = true, true }
	elsewhere := func(c *candidate) { c.elsewhere, c.started = true, true }
	started := func(c *candidate) { c.started = true }
	waits := func(c *candidate) { c.active, c.started, c.waiting = true, true, true }
	cancelled := func(c *candidate) { c.cancelled = true }

	for name, c := range map[string]struct {
		runs      []candidate
		limits    Limits
		start     []string
		supersede []supersession
	}{
		"oldest first":                  {runs: []candidate{run("1", "a", ""), run("2", "a", ""), run("3", "a", "")}, limits: Limits{Runs: 2}, start: []string{"1", "2"}},
		"repositories take turns":       {runs: []candidate{run("1", "a", ""), run("2", "a", ""), run("3", "a", ""), run("4", "b", "")}, limits: Limits{Runs: 2}, start: []string{"1", "4"}},
		"limit per repository":          {runs: []candidate{run("1", "a", ""), run("2", "a", ""), run("3", "b", "")}, limits: Limits{Runs: 9, PerRepository: 1}, start: []string{"1", "3"}},
		"what waits takes no place":     {runs: []candidate{with(run("1", "a", ""), waits), run("2", "a", "")}, limits: Limits{Runs: 1}, start: []string{"2"}},
		"what runs does":                {runs: []candidate{with(run("1", "a", ""), active), run("2", "a", "")}, limits: Limits{Runs: 1}},
		"begun runs go on":              {runs: []candidate{run("1", "a", ""), with(run("2", "a", ""), started)}, limits: Limits{Runs: 1}, start: []string{"2"}},
		"others' runs are left alone":   {runs: []candidate{with(run("1", "a", ""), elsewhere)}},
		"one of a group":                {runs: []candidate{run("1", "a", "g"), run("2", "a", "g"), run("3", "a", "h"), run("4", "b", "g")}, start: []string{"1", "4", "3"}},
		"a group is held elsewhere":     {runs: []candidate{with(run("1", "a", "g"), elsewhere), run("2", "a", "g")}},
		"a newer one of the group runs": {runs: []candidate{run("1", "a", "g"), with(run("2", "a", "g"), active)}},
		"cancel in progress": {runs: []candidate{with(run("1", "a", "g"), active), run("2", "a", "g"), with(run("3", "a", "g"), cancelling)},
			supersede: []supersession{{"1", "3"}, {"2", "3"}}},
		"then they end first": {runs: []candidate{with(with(run("1", "a", "g"), active), cancelled), with(run("2", "a", "g"), cancelled), with(run("3", "a", "g"), cancelling)},
			start: []string{"2"}},
		"a cancelled one cancels nobody": {runs: []candidate{run("1", "a", "g"), with(with(run("2", "a", "g"), cancelling), cancelled)}, start: []string{"2", "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			limits := c.limits
			if limits.Runs == 0 {
				limits.Runs = 10
			}
			if limits.PerRepository == 0 {
				limits.PerRepository = limits.Runs
			}
			start, supersede := admit(c.runs, limits)
			require.Equal(t, c.start, start)
			require.Equal(t, c.supersede, supersede)
		})
	}
}

func TestBackoff(t *testing.T) {
	b := Backoff{Base: time.Second, Max: 10 * time.Second}
	for failure, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 8 * time.Second, 5: 10 * time.Second, 1000: 10 * time.Second} {
		require.Equal(t, want, b.after(failure, 0))
		require.Equal(t, want/2, b.after(failure, 1))
	}
	require.NotEqual(t, spread("r1", "a", 1), spread("r2", "a", 1))
	require.Equal(t, spread("r1", "a", 1), spread("r1", "a", 1))
}

// Slots are never oversubscribed, an environment has one holder, and whoever
// asked is served in the end.
func TestSlots(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 3
		s := newSlots(limit)
		held, woken := map[holder]claim{}, map[holder]bool{}
		waits := map[holder]claim{}
		free := func(h holder) {
			s.release(h)
			delete(held, h)
			delete(waits, h)
		}
		ask := func(h holder, c claim) {
			if ok, _ := s.acquire(h, c, func() { woken[h] = true }); ok {
				held[h] = c
				delete(waits, h)
			} else {
				waits[h] = c
			}
		}
		check := func() {
			environments := map[string]bool{}
			for _, c := range held {
				if c.environment != "" && environments[c.environment] {
					t.Fatalf("two hold %s", c.environment)
				}
				environments[c.environment] = true
			}
			if len(held) > limit {
				t.Fatalf("%d of %d slots held", len(held), limit)
			}
		}
		for i := range 60 {
			h := holder{fmt.Sprint("r", rapid.IntRange(0, 4).Draw(t, "run")), fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "stage"))}
			_, has := held[h]
			if c, waiting := waits[h]; has || rapid.IntRange(0, 3).Draw(t, "release") == 0 {
				free(h)
			} else if waiting {
				ask(h, c)
			} else {
				ask(h, claim{repository: h.run, environment: rapid.SampledFrom([]string{"", "", "x", "y"}).Draw(t, fmt.Sprint("environment", i))})
			}
			for h := range woken {
				delete(woken, h)
				if c, waiting := waits[h]; waiting {
					if ask(h, c); held[h] != c {
						t.Fatalf("%v was woken for nothing", h)
					}
				}
			}
			check()
		}
		for len(held) > 0 {
			for h := range held {
				free(h)
				break
			}
			for h := range woken {
				delete(woken, h)
				if c, waiting := waits[h]; waiting {
					ask(h, c)
				}
			}
			check()
		}
		if len(waits) > 0 {
			t.Fatalf("never served: %v", waits)
		}
	})
}
