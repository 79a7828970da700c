package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Provenance says where the images of a release were proven before: it runs
// those of a verified revision of another environment, by digest.
type Provenance struct {
	// Environment is the name that the settings give it; empty when only its
	// namespace was named, on a command line.
	Environment string `json:"environment,omitempty"`
	App         string `json:"app"`
	Namespace   string `json:"namespace"`
	// Revision is its number there, Release the digest of its content, RunID and
	// Commit are those of the rollout that verified it, if it had them.
	Revision   int       `json:"revision"`
	Release    string    `json:"release"`
	RunID      string    `json:"runID,omitempty"`
	Commit     string    `json:"commit,omitempty"`
	VerifiedAt time.Time `json:"verifiedAt"`
}

// String tells it in a few words, for people.
func (p *Provenance) String() string {
	where := "namespace " + p.Namespace
	if p.Environment != "" {
		where = fmt.Sprintf("environment %s (%s)", p.Environment, where)
	}
	text := fmt.Sprintf("revision %d of %s in %s", p.Revision, p.App, where)
	if p.RunID != "" {
		text += ", rolled out by " + p.RunID
	}
	return text
}

// AnyCommit stands for whatever commit is verified.
const AnyCommit = "any"

// minCommit is how much of a commit's hash must be given to tell it from others.
const minCommit = 7

// Promotable is the verified revision that the application runs, if its images
// may be promoted to another environment: it passed its gates here, it serves,
// and it is of the commit, a hash of at least 7 digits or AnyCommit. Errors wrap
// ErrRefused and say what to do.
func (r *Record) Promotable(commit string) (*Rollout, error) {
	verified := r.Revision(r.Verified)
	switch {
	case r.Verified == 0 && r.Live():
		return nil, fmt.Errorf("%w: nothing of %s is verified in namespace %s yet: %s; wait until that is verified", ErrRefused, r.App, r.Namespace, r.Current.Sentence())
	case r.Verified == 0:
		return nil, fmt.Errorf("%w: nothing of %s is verified in namespace %s; roll it out there first", ErrRefused, r.App, r.Namespace)
	case verified == nil:
		return nil, fmt.Errorf("%w: the record of %s in namespace %s has forgotten its verified revision %d", ErrRefused, r.App, r.Namespace, r.Verified)
	case verified.Adopted():
		return nil, fmt.Errorf("%w: what runs as %s in namespace %s was there before Tidegate and has passed no gate; roll a release out there first", ErrRefused, r.App, r.Namespace)
	case r.Live() && commit != AnyCommit && sameCommit(r.Current.Commit, commit) && !sameCommit(verified.Commit, commit):
		return nil, fmt.Errorf("%w: commit %s is still on its way in namespace %s: %s; wait until it is verified", ErrRefused, shortCommit(commit), r.Namespace, r.Current.Sentence())
	case !r.Live() && (r.Stable != r.Verified || r.Current.State == Failed):
		return nil, fmt.Errorf("%w: what %s runs in namespace %s is not its verified revision %d: %s", ErrRefused, r.App, r.Namespace, r.Verified, r.Current.Sentence())
	case commit != AnyCommit && !sameCommit(verified.Commit, commit):
		return nil, fmt.Errorf("%w: revision %d, which is verified in namespace %s, is of commit %s, not of %s; verify that commit there first",
			ErrRefused, verified.Revision, r.Namespace, orUnknown(shortCommit(verified.Commit)), orUnknown(shortCommit(commit)))
	}
	return verified, nil
}

// Adopted tells whether the revision is what ran before Tidegate took over.
func (r *Rollout) Adopted() bool { return r.By == adoptedBy }

// adoptedBy stands for who made what was there before.
const adoptedBy = "adopted"

// ProvenanceOf describes a revision of the record for the environment that it is promoted to.
func (r *Record) ProvenanceOf(environment string, verified *Rollout) *Provenance {
	return &Provenance{Environment: environment, App: r.App, Namespace: r.Namespace, Revision: verified.Revision,
		Release: verified.Digest, RunID: verified.RunID, Commit: verified.Commit, VerifiedAt: verified.Finished}
}

// ByRun finds the rollout that a run asked for; nil when the record knows none.
func (r *Record) ByRun(runID string) *Rollout {
	if runID == "" {
		return nil
	}
	if r.Current != nil && r.Current.RunID == runID {
		return r.Current
	}
	if i := slices.IndexFunc(r.History, func(h Rollout) bool { return h.RunID == runID }); i >= 0 {
		return &r.History[i]
	}
	return nil
}

// sameCommit compares hashes, one of which may be shortened.
func sameCommit(a, b string) bool {
	if len(a) < len(b) {
		a, b = b, a
	}
	return len(b) >= minCommit && strings.HasPrefix(strings.ToLower(a), strings.ToLower(b))
}

func shortCommit(commit string) string { return commit[:min(len(commit), 10)] }
