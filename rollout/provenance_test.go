package rollout

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyWhatIsVerifiedAndServesIsPromoted(t *testing.T) {
	const asked, other = "1111111111111111111111111111111111111111", "2222222222222222222222222222222222222222"
	revision := func(number int, commit string, state State) *Rollout {
		return &Rollout{Revision: number, Commit: commit, Digest: "d", State: state, Strategy: Strategy{Kind: RollingStrategy}}
	}
	verified := func(commit string) *Record {
		r := &Record{App: "shop", Namespace: "staging", Revisions: 3, Verified: 3, Stable: 3, Current: revision(3, commit, Verified)}
		r.finish()
		return r
	}
	with := func(r *Record, change func(*Record)) *Record {
		change(r)
		return r
	}
	for name, test := range map[string]struct {
		record *Record
		commit string
		says   string // empty: revision 3 may be promoted
	}{
		"the commit that is verified":  {verified(asked), asked, ""},
		"shortened":                    {verified(asked), asked[:7], ""},
		"in capitals":                  {verified("ABCDEF0123456789"), "abcdef0123456789", ""},
		"whatever is verified":         {verified(other), AnyCommit, ""},
		"too short to tell":            {verified(asked), asked[:6], "is of commit 1111111111, not of 111111"},
		"another commit":               {verified(other), asked, "is of commit 2222222222, not of 1111111111"},
		"no commit":                    {verified(asked), "", "not of unknown"},
		"verified without a commit":    {verified(""), asked, "is of commit unknown"},
		"nothing yet":                  {&Record{App: "shop", Namespace: "staging"}, asked, "roll it out there first"},
		"the first is on its way":      {&Record{App: "shop", Namespace: "staging", Current: revision(1, asked, Rolling)}, asked, "wait until that is verified"},
		"forgotten":                    {&Record{App: "shop", Namespace: "staging", Verified: 3, Stable: 3, Current: revision(4, other, RolledBack)}, asked, "has forgotten"},
		"a newer one is on its way":    {with(verified(asked), func(r *Record) { r.Current = revision(4, other, Applying) }), asked, ""},
		"it is itself on its way":      {with(verified(other), func(r *Record) { r.Current = revision(4, asked, Applying) }), asked, "still on its way"},
		"a newer one was taken back":   {with(verified(asked), func(r *Record) { r.Current = revision(4, other, RolledBack) }), asked, ""},
		"a newer one failed and stays": {with(verified(asked), func(r *Record) { r.Current = revision(4, other, Failed) }), asked, "is not its verified revision 3"},
		"something else serves":        {with(verified(asked), func(r *Record) { r.Current, r.Stable = revision(4, other, Superseded), 4 }), asked, "is not its verified revision 3"},
		"adopted":                      {with(verified(asked), func(r *Record) { r.Current.By = adoptedBy }), asked, "has passed no gate"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := test.record.Promotable(test.commit)
			if test.says == "" {
				require.NoError(t, err)
				require.Equal(t, 3, got.Revision)
				return
			}
			require.ErrorIs(t, err, ErrRefused)
			require.ErrorContains(t, err, test.says)
		})
	}
}

func TestByRun(t *testing.T) {
	record := &Record{Current: &Rollout{Revision: 3, RunID: "c"}, History: []Rollout{{Revision: 2, RunID: "b"}, {Revision: 1}}}
	require.Equal(t, 3, record.ByRun("c").Revision)
	require.Equal(t, 2, record.ByRun("b").Revision)
	require.Nil(t, record.ByRun("a"))
	require.Nil(t, record.ByRun(""), "a rollout by hand belongs to no run")
}
