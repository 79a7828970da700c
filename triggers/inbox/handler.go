package inbox

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
)

// Defaults of Config.
const (
	// DefaultMaxBodyBytes is GitHub's own cap on a delivery
	// (docs.github.com, "Webhook events and payloads": 25 MB).
	DefaultMaxBodyBytes = 25 << 20
	// DefaultMaxMemory bounds all bodies in flight together.
	DefaultMaxMemory = 64 << 20
	// DefaultReadTimeout is how long a sender may take for its body.
	DefaultReadTimeout = 10 * time.Second
	// DefaultStoreTimeout is how long a delivery waits to be stored. GitHub
	// itself gives up after 10 s.
	DefaultStoreTimeout = 8 * time.Second
	// minimumSecret is the shortest secret that is worth the name, in bytes.
	minimumSecret = 8
	// retryAfter is what senders that find no room are told, in seconds.
	retryAfter = "5"
)

// Config is what a Handler needs. Zero numbers mean the defaults above.
type Config struct {
	Forge        Forge
	Store        Store
	Repositories Repositories
	// DefaultSecret verifies deliveries about repositories that are not
	// configured, such as those of a hook of a whole organisation. With it,
	// such a sender is told that the repository is unknown; without, only that
	// the delivery is not authentic. Nil means none.
	DefaultSecret []byte
	MaxBodyBytes  int64
	MaxMemory     int64
	ReadTimeout   time.Duration
	StoreTimeout  time.Duration
	Now           func() time.Time // nil means time.Now
	Log           *zap.Logger      // nil means none
}

// Handler is the endpoint of one forge's webhooks.
//
// It answers 202 when an event is durable or starts nothing, 200 to one that it
// has already, 400, 401, 404, 405, 413 or 415 to what it will never accept, and
// 503 with Retry-After when it has no room: then nothing was stored.
type Handler struct {
	config Config
	bodies *bodies
	// stranger is a secret that nobody has: deliveries about unknown
	// repositories are verified like all others, and fail like them.
	stranger []byte
}

// CheckSecret refuses a webhook secret that protects nothing.
func CheckSecret(secret []byte) error {
	switch n := len(secret); {
	case n == 0:
		return errors.New("the webhook secret is empty: anyone could start runs; set one (for example from `openssl rand -hex 32`), here and at the forge")
	case n < minimumSecret:
		return fmt.Errorf("the webhook secret has %d bytes: use at least %d (for example from `openssl rand -hex 32`)", n, minimumSecret)
	}
	return nil
}

// NewHandler checks a configuration and makes its handler.
func NewHandler(config Config) (*Handler, error) {
	if config.Forge == nil || config.Store == nil || config.Repositories == nil {
		return nil, errors.New("webhooks: a forge, a store and the repositories are needed")
	}
	h := &Handler{config: config, stranger: make([]byte, 32)}
	c := &h.config
	if c.DefaultSecret != nil {
		if err := CheckSecret(c.DefaultSecret); err != nil {
			return nil, fmt.Errorf("webhooks: default secret: %w", err)
		}
		h.stranger = c.DefaultSecret
	} else if _, err := rand.Read(h.stranger); err != nil {
		return nil, fmt.Errorf("webhooks: read randomness: %w", err)
	}
	setDefault(&c.MaxBodyBytes, DefaultMaxBodyBytes)
	setDefault(&c.MaxMemory, DefaultMaxMemory)
	setDefault(&c.ReadTimeout, DefaultReadTimeout)
	setDefault(&c.StoreTimeout, DefaultStoreTimeout)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.MaxMemory <= c.MaxBodyBytes {
		return nil, fmt.Errorf("webhooks: %d bytes of memory cannot hold one body of %d: raise the first or lower the second", c.MaxMemory, c.MaxBodyBytes)
	}
	h.bodies = &bodies{memory: semaphore.NewWeighted(c.MaxMemory), max: c.MaxBodyBytes}
	return h, nil
}

func setDefault[T comparable](value *T, to T) {
	var zero T
	if *value == zero {
		*value = to
	}
}

// answer is what the sender reads.
type answer struct {
	Status   string `json:"status"` // accepted, duplicate, ignored, refused, unavailable
	Delivery string `json:"delivery,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, reply := h.take(w, r)
	switch status {
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", retryAfter)
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	}
	if status >= 400 {
		// The rest of the body is not worth reading.
		w.Header().Set("Connection", "close")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(reply) // the sender is gone if this fails
}

// take does all the work and says what to answer.
func (h *Handler) take(w http.ResponseWriter, r *http.Request) (int, answer) {
	if r.Method != http.MethodPost {
		return http.StatusMethodNotAllowed, answer{Status: "refused", Reason: "webhooks are sent by POST"}
	}
	delivery, err := h.config.Forge.Open(r.Header)
	if err != nil {
		return h.refuse(r, "", err)
	}
	// Not every ResponseWriter can; the server's own timeouts still hold then.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.config.ReadTimeout))
	body, release, err := h.bodies.read(w, r)
	if err != nil {
		return h.refuse(r, delivery.ID(), err)
	}
	defer release()

	repository, err := h.authenticate(delivery, body)
	if err != nil {
		return h.refuse(r, delivery.ID(), err)
	}
	ev, ignored, err := delivery.Event(body)
	if err != nil {
		return h.refuse(r, delivery.ID(), err)
	}
	if ignored != "" {
		h.config.Log.Debug("webhook starts nothing", zap.String("delivery", delivery.ID()), zap.String("reason", ignored))
		return http.StatusAccepted, answer{Status: "ignored", Delivery: delivery.ID(), Reason: ignored}
	}
	if !strings.EqualFold(ev.Repository.FullName, repository.FullName) {
		return h.refuse(r, delivery.ID(), Refusef(http.StatusBadRequest, "the body names two repositories"))
	}
	ev.Repository.FullName = repository.FullName
	if repository.CloneURL != "" {
		ev.Repository.CloneURL = repository.CloneURL
	}
	if repository.DefaultBranch != "" {
		ev.Repository.DefaultBranch = repository.DefaultBranch
	}
	ev.ReceivedAt = h.config.Now().UTC()

	ctx, cancel := context.WithTimeout(r.Context(), h.config.StoreTimeout)
	defer cancel()
	stored, err := h.config.Store.Put(ctx, ev)
	switch {
	case err != nil:
		h.config.Log.Error("webhook not stored", zap.String("delivery", ev.ID), zap.String("repository", repository.FullName), zap.Error(err))
		reason := "the event could not be stored: send it again later"
		if errors.Is(err, ErrFull) {
			reason = "no room to store the event: send it again later"
		}
		return http.StatusServiceUnavailable, answer{Status: "unavailable", Delivery: ev.ID, Reason: reason}
	case !stored:
		return http.StatusOK, answer{Status: "duplicate", Delivery: ev.ID, Reason: "this delivery was accepted before; it is not run again"}
	}
	return http.StatusAccepted, answer{Status: "accepted", Delivery: ev.ID}
}

// authenticate finds the repository and verifies the body with its secret. An
// unknown repository costs the same work, and unless the sender knows the
// default secret, gets the same answer as a wrong signature.
func (h *Handler) authenticate(delivery Delivery, body []byte) (Repository, error) {
	name, err := delivery.RepositoryName(body)
	if err != nil {
		return Repository{}, err
	}
	repository, known := h.config.Repositories.Lookup(name)
	secret := repository.Secret
	if !known || len(secret) == 0 {
		known, secret = false, h.stranger
	}
	if !delivery.Verify(body, secret) {
		h.config.Log.Warn("webhook not authentic", zap.String("delivery", delivery.ID()),
			zap.String("repository", name), zap.Bool("configured", known))
		return Repository{}, Refusef(http.StatusUnauthorized,
			"the signature does not match: check that the repository is configured here and that both sides have the same secret")
	}
	if !known && name != "" {
		return Repository{}, Refusef(http.StatusNotFound, "repository %q is not configured here: add it, then redeliver", name)
	}
	return repository, nil
}

func (h *Handler) refuse(r *http.Request, delivery string, err error) (int, answer) {
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal) && refusal.Status < 400: // a ping
		return refusal.Status, answer{Status: "ignored", Delivery: delivery, Reason: refusal.Reason}
	case errors.As(err, &refusal):
		h.config.Log.Info("webhook refused", zap.String("delivery", delivery), zap.String("from", r.RemoteAddr),
			zap.Int("status", refusal.Status), zap.String("reason", refusal.Reason))
		return refusal.Status, answer{Status: "refused", Delivery: delivery, Reason: refusal.Reason}
	case errors.Is(err, errOverloaded):
		return http.StatusServiceUnavailable, answer{Status: "unavailable", Delivery: delivery, Reason: err.Error() + ": send it again later"}
	}
	h.config.Log.Error("webhook failed", zap.String("delivery", delivery), zap.Error(err))
	return http.StatusInternalServerError, answer{Status: "unavailable", Delivery: delivery, Reason: "internal error"}
}
