// Package server wires a Tidegate server together: webhooks come in, runs are
// planned and driven, statuses go back, and the API shows it all.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/internal/api"
	"github.com/tidegate-ci/tidegate/internal/registry"
	"github.com/tidegate-ci/tidegate/internal/settings"
	"github.com/tidegate-ci/tidegate/internal/worker"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/engine"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
	journalsqlite "github.com/tidegate-ci/tidegate/pipeline/journal/sqlite"
	"github.com/tidegate-ci/tidegate/triggers/forge/github"
	"github.com/tidegate-ci/tidegate/triggers/inbox"
	inboxsqlite "github.com/tidegate-ci/tidegate/triggers/inbox/sqlite"
	"github.com/tidegate-ci/tidegate/triggers/schedule"
	"github.com/tidegate-ci/tidegate/triggers/source"
)

// shutdownTimeout bounds the end of requests that are being answered.
const shutdownTimeout = 10 * time.Second

// Server is all of it. Make one with Open, run it with Run.
type Server struct {
	settings settings.Settings
	log      *zap.Logger

	lock      *os.File
	journal   *journalsqlite.Journal
	inbox     *inboxsqlite.Store
	tokens    *api.Tokens
	worker    *worker.Worker
	engine    *engine.Engine
	processor inbox.Processor
	schedules *schedules
	statuses  *statusReporter
	images    *registry.Registry
	registry  *registry.Server
	http      *http.Server
	listener  net.Listener
	stopping  chan struct{}
}

// Open reads what the data directory holds and prepares every part; nothing
// runs yet. Whoever gets an error holds nothing.
func Open(ctx context.Context, config settings.Settings, log *zap.Logger) (_ *Server, err error) {
	s := &Server{settings: config, log: log, stopping: make(chan struct{})}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := os.MkdirAll(config.Data, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	if s.lock, err = lockData(config.Data); err != nil {
		return nil, err
	}
	known, err := readRepositories(config.Repositories)
	if err != nil {
		return nil, err
	}
	if s.journal, err = journalsqlite.Open(ctx, filepath.Join(config.Data, "journal.db"), journalsqlite.Options{KeepRuns: config.Limits.KeepRuns}); err != nil {
		return nil, err
	}
	if s.inbox, err = inboxsqlite.Open(ctx, filepath.Join(config.Data, "inbox.db"), inboxsqlite.Options{}); err != nil {
		return nil, err
	}
	cache, err := source.Open(source.Config{
		Dir:         filepath.Join(config.Data, "source"),
		Protocols:   protocols(config.Repositories),
		Credentials: known.credentials,
		Log:         log.Named("source"),
	})
	if err != nil {
		return nil, err
	}
	if s.tokens, err = openTokens(config.Data); err != nil {
		return nil, err
	}
	if err := s.openRegistry(ctx); err != nil {
		return nil, err
	}
	if err := s.openEngine(ctx, known, cache); err != nil {
		return nil, err
	}
	s.schedules = &schedules{
		cron: schedule.New(s.inbox, s.inbox, time.Now, log.Named("schedule")), repositories: known, source: cache, log: log.Named("schedule"),
	}
	plans := &planner{repositories: known, source: cache, engine: s.engine, schedules: s.schedules, log: log.Named("planner")}
	s.processor = inbox.Processor{Store: s.inbox, Handle: plans.Handle, Log: log.Named("inbox")}
	sink, err := newGithubStatuses(config.GitHub.API, known)
	if err != nil {
		return nil, err
	}
	s.statuses = &statusReporter{journal: s.journal, sink: sink, now: time.Now, log: log.Named("status")}
	return s, s.openHTTP(ctx, known, plans)
}

func (s *Server) openRegistry(ctx context.Context) (err error) {
	if !s.settings.Registry.Embedded() {
		return nil
	}
	if s.images, err = registry.New(registry.Config{Dir: filepath.Join(s.settings.Data, "registry"), Log: s.log.Named("registry")}); err != nil {
		return err
	}
	s.registry, err = s.images.Listen(ctx, s.settings.Registry.Listen)
	return err
}

func (s *Server) openEngine(ctx context.Context, known *repositories, cache *source.Cache) error {
	places, err := newWorkspaces(filepath.Join(s.settings.Data, "workspaces"), cache, s.log)
	if err != nil {
		return err
	}
	s.worker, err = worker.New(ctx, worker.Options{Settings: s.settings, Containers: true, Member: s.member, Log: s.log})
	if err != nil {
		return err
	}
	s.engine, err = engine.New(engine.Options{
		Journal:    s.journal,
		Kinds:      s.worker.Kinds,
		Workspaces: places,
		Secrets:    known.runSecrets,
		When:       pipeline.EvaluateWhen,
		Resolve:    pipeline.Resolve,
		// The data directory is locked by this process, so its name alone tells
		// a restarted worker from others: it takes its runs up at once.
		Worker:   "server " + s.settings.Data,
		Limits:   engine.Limits{Stages: s.settings.Limits.Stages, Runs: s.settings.Limits.Runs},
		LeaseTTL: settings.LeaseTTL,
		Log:      s.log.Named("engine"),
	})
	return err
}

// member tells whether a token gives the user the group.
func (s *Server) member(user, group string) bool {
	known, err := s.tokens.List()
	if err != nil {
		s.log.Error("read the tokens", zap.Error(err))
		return false
	}
	return slices.ContainsFunc(known, func(t api.Token) bool { return t.User == user && slices.Contains(t.Groups, group) })
}

func (s *Server) openHTTP(ctx context.Context, known *repositories, plans *planner) error {
	hooks, err := inbox.NewHandler(inbox.Config{Forge: github.Forge{}, Store: s.inbox, Repositories: known, Log: s.log.Named("hooks")})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/hooks/github", hooks)
	mux.Handle(api.Prefix+"/", api.New(api.Settings{
		Journal:  s.journal,
		Runs:     &controls{engine: s.engine, journal: s.journal, planner: plans, rollouts: s.worker, now: time.Now},
		Events:   &events{store: s.inbox, now: time.Now, log: s.log.Named("audit")},
		Tokens:   s.tokens,
		Log:      s.log.Named("api"),
		Stopping: s.stopping,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", s.ready)
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          zap.NewStdLog(s.log.Named("http")),
	}
	if s.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", s.settings.Listen); err != nil {
		return fmt.Errorf("listen on %s: %w (another tidegate? set listen: in the settings, or --listen)", s.settings.Listen, err)
	}
	return nil
}

// ready answers 200 while the journal can be read and the server is not about to stop.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	select {
	case <-s.stopping:
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	default:
	}
	if _, err := s.journal.List(r.Context(), journal.Filter{Limit: 1}); err != nil {
		s.log.Error("not ready", zap.Error(err))
		http.Error(w, "the journal cannot be read", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// Run serves until ctx ends, then stops in order: no new requests, no new
// stages; runs under way are handed over to the next start.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.engine.Serve(ctx) })
	group.Go(func() error { return s.processor.Run(ctx) })
	group.Go(func() error { return s.worker.Maintain(ctx) })
	group.Go(func() error { return s.worker.TellLeftovers(ctx) })
	group.Go(func() error { return s.schedules.run(ctx) })
	group.Go(func() error { s.statuses.run(ctx); return nil })
	if s.registry != nil {
		group.Go(func() error { return s.registry.Serve(ctx) })
	}
	group.Go(func() error {
		if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve HTTP: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		close(s.stopping)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if err := s.http.Shutdown(grace); err != nil {
			return s.http.Close()
		}
		return nil
	})
	s.log.Info("serving", zap.String("address", s.listener.Addr().String()), zap.String("data", s.settings.Data), zap.Int("repositories", len(s.settings.Repositories)))
	err := group.Wait()
	s.log.Info("stopped")
	return err
}

// close gives back what Open took, the lock last.
func (s *Server) close() {
	if s.listener != nil {
		_ = s.listener.Close() // closed already when the server ran
	}
	for name, closer := range map[string]interface{ Close() error }{"registry": closerOf(s.images), "inbox": closerOf(s.inbox), "journal": closerOf(s.journal)} {
		if closer == nil {
			continue
		}
		if err := closer.Close(); err != nil {
			s.log.Error("close", zap.String("part", name), zap.Error(err))
		}
	}
	if s.lock != nil {
		_ = s.lock.Close()
	}
}

// closerOf is nil for a part that was not opened.
func closerOf[T interface {
	comparable
	Close() error
}](part T) interface{ Close() error } {
	var none T
	if part == none {
		return nil
	}
	return part
}

// lockData takes the data directory for this process until the file is closed,
// which the kernel does when the process dies.
func lockData(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("the data directory %s is in use by another tidegate: stop it, or set another data: in the settings (%w)", dir, err)
	}
	return file, nil
}

// protocols are what the configured clone URLs use: naming a URL in the
// settings is what allows its protocol.
func protocols(configured []settings.Repository) []string {
	allowed := []string{source.HTTPS, source.SSH}
	for _, r := range configured {
		for prefix, protocol := range map[string]string{"http://": source.HTTP, "file://": source.File} {
			if len(r.Clone) > len(prefix) && r.Clone[:len(prefix)] == prefix {
				allowed = append(allowed, protocol)
			}
		}
	}
	return allowed
}
