// Package api is the HTTP interface of the server under /api/v1 and the client
// for it: reading runs, following them live, and changing what they do.
//
// Every route wants a bearer token. Bodies are strict JSON of bounded size, an
// error is {"error": {"code", "message", "hint"}}, and whoever changes
// something is named in the audit log.
package api

import (
	"context"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// Prefix is where the handler is mounted.
const Prefix = "/api/v1"

// Journal is what the API reads; journal.Journal has it all.
type Journal interface {
	List(ctx context.Context, filter journal.Filter) ([]journal.Summary, error)
	Entries(ctx context.Context, runID string, after int64) ([]journal.Entry, error)
	Log(ctx context.Context, runID, stage string, after int64, limit int) ([]journal.Line, error)
	Watch(ctx context.Context, runID string) <-chan struct{}
}

// Runs is what the API may ask of the engine. Errors that carry a
// pipeline.Cause are shown to the caller; others are logged and shown as
// "internal". Each call may be repeated without harm.
type Runs interface {
	// Cancel asks a run to stop, for the cause given, in the name of by.
	Cancel(ctx context.Context, runID, by, cause string) error
	// Decide answers the approval that a stage waits, or will wait, for.
	Decide(ctx context.Context, runID, stageID string, decision pipeline.Decision) error
	// Rerun starts a new run of the same plan; with fromFailed, stages that
	// succeeded are taken over from the old run.
	Rerun(ctx context.Context, runID, by string, fromFailed bool) (newID string, err error)
	// Start starts pipelines by hand and returns the ids of the runs.
	Start(ctx context.Context, request StartRequest, by string) ([]string, error)
}

// Events is the inbox: what came in, whether it led to runs or not.
type Events interface {
	// List returns the newest events first, at most limit.
	List(ctx context.Context, repository string, limit int) ([]EventRecord, error)
	// Redeliver handles a stored event once more; a run that it led to
	// already is not made twice. An unknown id is a pipeline.CauseInvalid error.
	Redeliver(ctx context.Context, id, by string) error
}

// Settings wires a Handler.
type Settings struct {
	Journal Journal
	Runs    Runs
	// Events may be nil: then the event routes answer "not found".
	Events Events
	Tokens *Tokens
	Log    *zap.Logger
	// Stopping, when closed, ends followed streams so that a server can shut
	// down; clients reconnect. Nil means never.
	Stopping <-chan struct{}
	// Heartbeat is how often a quiet stream says that it lives; 0 means
	// DefaultHeartbeat.
	Heartbeat time.Duration
	// WriteTimeout bounds one write to a client that does not read; 0 means
	// DefaultWriteTimeout.
	WriteTimeout time.Duration
}

const (
	// DefaultHeartbeat keeps idle proxies (60 s as a rule) from cutting a stream.
	DefaultHeartbeat = 15 * time.Second
	// DefaultWriteTimeout is generous to slow links, short enough to free a dead one.
	DefaultWriteTimeout = 30 * time.Second

	maxBody    = 64 << 10
	maxStreams = 256
	// maxList is the journal's own bound.
	maxList     = 1000
	defaultList = 50
)

type handler struct {
	Settings
	streams chan struct{} // one slot an open stream
}

// New returns the handler of all routes under Prefix.
func New(settings Settings) http.Handler {
	if settings.Heartbeat <= 0 {
		settings.Heartbeat = DefaultHeartbeat
	}
	if settings.WriteTimeout <= 0 {
		settings.WriteTimeout = DefaultWriteTimeout
	}
	if settings.Log == nil {
		settings.Log = zap.NewNop()
	}
	h := &handler{Settings: settings, streams: make(chan struct{}, maxStreams)}
	mux := http.NewServeMux()
	for _, r := range []struct {
		pattern string
		role    Role
		serve   func(http.ResponseWriter, *http.Request) error
	}{
		{"GET /whoami", RoleRead, h.whoami},
		{"GET /runs", RoleRead, h.listRuns},
		{"GET /runs/{id}", RoleRead, h.showRun},
		{"GET /runs/{id}/stream", RoleRead, h.streamRun},
		{"GET /runs/{id}/log", RoleRead, h.runLog},
		{"POST /runs", RoleOperate, h.startRun},
		{"POST /runs/{id}/cancel", RoleOperate, h.cancelRun},
		{"POST /runs/{id}/rerun", RoleOperate, h.rerunRun},
		{"POST /runs/{id}/stages/{stage}/decision", RoleOperate, h.decide},
		{"GET /events", RoleRead, h.listEvents},
		{"POST /events/{id}/redeliver", RoleOperate, h.redeliver},
	} {
		method, path := splitPattern(r.pattern)
		mux.Handle(method+" "+Prefix+path, h.route(r.role, r.serve))
	}
	mux.Handle(Prefix+"/", h.route(RoleRead, h.noRoute))
	return mux
}
