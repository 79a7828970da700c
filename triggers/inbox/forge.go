package inbox

import (
	"fmt"
	"net/http"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// Repository is what the inbox must know of a repository to accept its events.
type Repository struct {
	// FullName is the owner and name, such as "octo/shop".
	FullName string
	// Secret is shared with the forge and signs each delivery. Never empty.
	Secret []byte
	// CloneURL, when set, replaces the one that the payload names.
	CloneURL string
	// DefaultBranch, when set, replaces the one that the payload names.
	DefaultBranch string
}

// Repositories finds a configured repository by its full name, the way the
// forge compares names (GitHub ignores case). Safe for concurrent use.
type Repositories interface {
	Lookup(fullName string) (Repository, bool)
}

// Forge reads the deliveries of one forge. Safe for concurrent use.
type Forge interface {
	// Open checks what the headers say, before the body is read. Its error is
	// a *Refusal.
	Open(header http.Header) (Delivery, error)
}

// Delivery is one webhook request.
type Delivery interface {
	// ID is the forge's id of the delivery, the same when it is sent again.
	ID() string
	// RepositoryName says which repository the body claims to be about, empty
	// for deliveries about none (a ping of an organisation's hook). The body is
	// not verified yet. Its error is a *Refusal.
	RepositoryName(body []byte) (string, error)
	// Verify tells, in constant time, whether secret signed the body.
	Verify(body, secret []byte) bool
	// Event reads a verified body. A non-empty ignored says why this delivery
	// starts nothing; then the event is void. Its error is a *Refusal.
	Event(body []byte) (ev event.Event, ignored string, err error)
}

// Refusal is a delivery that is not accepted, as the sender is told.
type Refusal struct {
	Status int // of HTTP
	Reason string
}

func (r *Refusal) Error() string { return r.Reason }

// Refusef makes a Refusal.
func Refusef(status int, format string, args ...any) error {
	return &Refusal{Status: status, Reason: fmt.Sprintf(format, args...)}
}
