package waves

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/rollout"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestSee(t *testing.T) {
	ours := func(state rollout.State) rollout.Rollout {
		return rollout.Rollout{Revision: 3, Base: 2, Digest: "d", RunID: "run", State: state, Finished: noon}
	}
	record := func(verified, stable int, current rollout.Rollout, history ...rollout.Rollout) *rollout.Record {
		return &rollout.Record{Revisions: current.Revision, Verified: verified, Stable: stable, Current: &current, History: append([]rollout.Rollout{current}, history...)}
	}
	newer := func(state rollout.State, change func(*rollout.Rollout)) rollout.Rollout {
		r := rollout.Rollout{Revision: 4, Base: 3, Digest: "other", RunID: "other", State: state, By: "ann"}
		if change != nil {
			change(&r)
		}
		return r
	}
	back := func(r *rollout.Rollout) { r.RollbackTo, r.RunID = 2, "" }
	for name, test := range map[string]struct {
		record *rollout.Record
		want   Phase
	}{
		"no record":                    {nil, Untouched},
		"an empty one":                 {&rollout.Record{}, Untouched},
		"another release":              {record(2, 2, newer(rollout.Verified, nil)), Untouched},
		"another release on its way":   {record(2, 2, newer(rollout.Rolling, nil)), Untouched},
		"this very release, before":    {record(4, 4, newer(rollout.Verified, func(r *rollout.Rollout) { r.Digest = "d" })), Verified},
		"that one, but not serving":    {record(4, 5, newer(rollout.Verified, func(r *rollout.Rollout) { r.Digest = "d" })), Untouched},
		"accepted":                     {record(2, 2, ours(rollout.Pending)), Moving},
		"under way":                    {record(2, 3, ours(rollout.Rolling)), Moving},
		"going back":                   {record(2, 3, ours(rollout.RollingBack)), Moving},
		"verified":                     {record(3, 3, ours(rollout.Verified)), Verified},
		"rolled back":                  {record(2, 2, ours(rollout.RolledBack)), Failed},
		"failed":                       {record(0, 3, ours(rollout.Failed)), Failed},
		"rejected":                     {record(2, 2, rollout.Rollout{Revision: 2, State: rollout.Verified, Digest: "e"}, ours(rollout.Failed)), Failed},
		"superseded":                   {record(2, 2, newer(rollout.Rolling, nil), ours(rollout.Superseded)), Overtaken},
		"a newer one on its way":       {record(3, 3, newer(rollout.Applying, nil), ours(rollout.Verified)), Overtaken},
		"a newer one is verified":      {record(4, 4, newer(rollout.Verified, nil), ours(rollout.Verified)), Overtaken},
		"a newer one was taken back":   {record(3, 3, newer(rollout.RolledBack, nil), ours(rollout.Verified)), Verified},
		"restarted":                    {record(4, 4, newer(rollout.Verified, func(r *rollout.Rollout) { r.Digest, r.RunID = "d", "" }), ours(rollout.Verified)), Verified},
		"being taken back":             {record(3, 4, newer(rollout.Rolling, back), ours(rollout.Verified)), Returning},
		"taken back":                   {record(4, 4, newer(rollout.Verified, back), ours(rollout.Verified)), Returned},
		"taking it back failed":        {record(3, 3, newer(rollout.Failed, back), ours(rollout.Verified)), Stuck},
		"the way back was taken back":  {record(3, 3, newer(rollout.RolledBack, back), ours(rollout.Verified)), Stuck},
		"the way back was overtaken":   {record(3, 3, newer(rollout.Superseded, back), ours(rollout.Verified)), Stuck},
		"another attempt of the stage": {record(2, 2, func() rollout.Rollout { r := ours(rollout.RolledBack); r.RunID = "run before"; return r }()), Untouched},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, See(test.record, "run", "d").Phase)
		})
	}
}

func TestDecide(t *testing.T) {
	plan := Plan{Waves: [][]string{{"a"}, {"b", "c"}, {"d"}}, Hold: time.Minute, Approval: &rollout.ApprovalGate{From: []string{"ops"}}}
	verified := Seen{Phase: Verified, Revision: 3, Base: 2, Mine: true, Verified: noon}
	at := func(phase Phase) Seen { return Seen{Phase: phase, Revision: 3, Base: 2, Mine: true, Why: "as it is"} }
	was := verified
	was.Mine = false
	first := verified
	first.Base = 0
	later := verified
	later.Verified = noon.Add(time.Minute)
	pending := at(Moving)
	pending.Pending = true
	none := Seen{Phase: Untouched}
	for name, test := range map[string]struct {
		a, b, c, d Seen
		unwanted   string
		keep       bool
		want       Next
	}{
		"the first":                           {a: none, b: none, c: none, d: none, want: Next{Kind: Start, Clusters: []string{"a"}}},
		"it is under way":                     {a: at(Moving), b: none, c: none, d: none, want: Next{Kind: Start, Clusters: []string{"a"}}},
		"the second, held and asked for":      {a: verified, b: none, c: none, d: none, want: Next{Kind: Start, Clusters: []string{"b", "c"}, Wave: 1, Earlier: []string{"a"}, Until: noon.Add(time.Minute), Asks: true}},
		"still asked for":                     {a: verified, b: pending, c: none, d: none, want: Next{Kind: Start, Clusters: []string{"b", "c"}, Wave: 1, Earlier: []string{"a"}, Until: noon.Add(time.Minute), Asks: true}},
		"begun is not held again":             {a: verified, b: at(Moving), c: none, d: none, want: Next{Kind: Start, Clusters: []string{"b", "c"}, Wave: 1}},
		"half of it":                          {a: verified, b: verified, c: none, d: none, want: Next{Kind: Start, Clusters: []string{"c"}, Wave: 1}},
		"held from the last":                  {a: verified, b: verified, c: later, d: none, want: Next{Kind: Start, Clusters: []string{"d"}, Wave: 2, Earlier: []string{"a", "b", "c"}, Until: later.Verified.Add(time.Minute), Asks: true}},
		"what ran it before is not held long": {a: was, b: none, c: none, d: none, want: Next{Kind: Start, Clusters: []string{"b", "c"}, Wave: 1, Earlier: []string{"a"}, Asks: true}},
		"all":                                 {a: verified, b: was, c: verified, d: verified, want: Next{Kind: Done}},
		"one fails, another is under way":     {a: verified, b: at(Failed), c: at(Moving), d: none, want: Next{Kind: Abort, Clusters: []string{"c"}, Why: "cluster b: as it is"}},
		"then the others go back, last first": {a: verified, b: at(Failed), c: verified, d: none, want: Next{Kind: TakeBack, Clusters: []string{"c", "a"}, Why: "cluster b: as it is"}},
		"and are seen through":                {a: at(Returning), b: at(Failed), c: at(Returned), d: none, want: Next{Kind: TakeBack, Clusters: []string{"a"}, Why: "cluster b: as it is"}},
		"until none is left":                  {a: at(Returned), b: at(Failed), c: at(Returned), d: none, want: Next{Kind: GaveUp, Why: "cluster b: as it is"}},
		"stop":                                {a: verified, b: at(Failed), c: none, d: none, keep: true, want: Next{Kind: GaveUp, Why: "cluster b: as it is; it stays in a"}},
		"nothing to go back to":               {a: first, b: at(Failed), c: none, d: none, want: Next{Kind: GaveUp, Why: "cluster b: as it is; it stays in a, where there is nothing verified to go back to"}},
		"what ran it before stays":            {a: was, b: at(Failed), c: none, d: none, want: Next{Kind: GaveUp, Why: "cluster b: as it is"}},
		"going back failed":                   {a: at(Stuck), b: at(Failed), c: none, d: none, want: Next{Kind: GaveUp, Why: "cluster b: as it is; going back failed in a: look there"}},
		"a person took one back":              {a: at(Returned), b: verified, c: none, d: none, want: Next{Kind: TakeBack, Clusters: []string{"b"}, Why: "cluster a: as it is"}},
		"cancelled":                           {a: verified, b: at(Moving), c: none, d: none, unwanted: "cancelled", want: Next{Kind: Abort, Clusters: []string{"b"}, Why: "cancelled"}},
		"cancelled, whatever failures do":     {a: verified, b: at(Failed), c: none, d: none, unwanted: "cancelled", keep: true, want: Next{Kind: TakeBack, Clusters: []string{"a"}, Why: "cancelled"}},
		"overtaken":                           {a: at(Overtaken), b: at(Moving), c: at(Failed), d: none, want: Next{Kind: Lost, Clusters: []string{"a"}, Why: "cluster a: as it is"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan
			p.KeepEarlier = test.keep
			require.Equal(t, test.want, Decide(p, map[string]Seen{"a": test.a, "b": test.b, "c": test.c, "d": test.d}, test.unwanted))
		})
	}
}

func TestPlansThatMakeNoSense(t *testing.T) {
	for _, p := range []Plan{{}, {Waves: [][]string{{"a"}, {}}}, {Waves: [][]string{{"a"}, {"a"}}}, {Waves: [][]string{{"a"}}, Hold: -1}} {
		require.ErrorIs(t, p.Check(), rollout.ErrInvalid)
	}
}

// Whatever the clusters do, and however often whoever decides is replaced (it
// remembers nothing), no wave begins before all earlier clusters are verified,
// what was given up has been taken back, and it ends.
func TestWavesKeepTheirPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Plan{KeepEarlier: rapid.Bool().Draw(t, "keep")}
		seen := map[string]Seen{}
		for i := range rapid.IntRange(1, 4).Draw(t, "waves") {
			var wave []string
			for j := range rapid.IntRange(1, 3).Draw(t, "clusters") {
				name := fmt.Sprintf("w%dc%d", i, j)
				wave = append(wave, name)
				seen[name] = Seen{Phase: Untouched}
				if rapid.IntRange(0, 5).Draw(t, "has it") == 0 {
					seen[name] = Seen{Phase: Verified, Revision: 1}
				}
			}
			p.Waves = append(p.Waves, wave)
		}
		unwanted := ""
		for steps := 0; ; steps++ {
			if steps > 200 {
				t.Fatalf("it never ends: %v", seen)
			}
			if rapid.IntRange(0, 30).Draw(t, "cancelled") == 0 {
				unwanted = "cancelled"
			}
			next := Decide(p, seen, unwanted)
			become := func(name string, phases ...Phase) {
				s := seen[name]
				s.Phase = rapid.SampledFrom(phases).Draw(t, name)
				seen[name] = s
			}
			switch next.Kind {
			case Done:
				for name, s := range seen {
					if s.Phase != Verified {
						t.Fatalf("done, and %s is %s", name, s.Phase)
					}
				}
				return
			case Lost:
				return
			case GaveUp:
				for name, s := range seen {
					if s.Phase == Moving || s.Phase == Returning || s.Phase == Verified && s.Mine && s.Base != 0 && (!p.KeepEarlier || unwanted != "") {
						t.Fatalf("given up, and %s is %+v", name, s)
					}
				}
				return
			case Start:
				for _, wave := range p.Waves[:next.Wave] {
					for _, name := range wave {
						if seen[name].Phase != Verified {
							t.Fatalf("wave %d begins, and %s is %s", next.Wave, name, seen[name].Phase)
						}
					}
				}
				for _, name := range next.Clusters {
					if !slices.Contains(p.Waves[next.Wave], name) {
						t.Fatal("a cluster of another wave")
					}
					seen[name] = Seen{Phase: Moving, Revision: 2, Base: rapid.IntRange(0, 1).Draw(t, "base"), Mine: true}
					become(name, Moving, Moving, Verified, Verified, Verified, Verified, Failed)
				}
			case Abort:
				for _, name := range next.Clusters {
					become(name, Moving, Failed, Failed, Verified)
				}
			case TakeBack:
				for _, name := range next.Clusters {
					if s := seen[name]; !s.Mine || s.Base == 0 {
						t.Fatalf("%s is taken back, and was not moved, or has nothing to go back to: %+v", name, s)
					}
					become(name, Returning, Returned, Returned, Stuck)
				}
			}
			if rapid.IntRange(0, 20).Draw(t, "somebody acts") == 0 {
				name := rapid.SampledFrom(p.clusters()).Draw(t, "where")
				if s := seen[name]; s.Mine && s.Phase == Verified && s.Base != 0 {
					become(name, Returned, Returning, Overtaken)
				}
			}
		}
	})
}
