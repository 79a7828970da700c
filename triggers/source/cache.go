// Package source keeps local mirrors of Git repositories and takes files out of
// them: it fetches only what is new, never runs anything that a repository
// contains, and never writes outside the directory it is given.
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// Errors that callers branch on.
var (
	// ErrNotFound: the repository does not have that branch, ref or commit (any more).
	ErrNotFound = errors.New("not found in the repository")
	// ErrAccess: the repository does not exist, or the credentials do not open it.
	ErrAccess = errors.New("no access to the repository")
	// ErrRefused: policy does not allow the URL or what the repository contains.
	ErrRefused = errors.New("refused")
	// ErrTooLarge: a limit of Config was met.
	ErrTooLarge = errors.New("too large")
)

// Defaults of Config.
const (
	DefaultFetchTimeout     = 10 * time.Minute
	DefaultMaxPackBytes     = 4 << 30
	DefaultMaxFileBytes     = 512 << 20
	DefaultMaxCheckoutBytes = 8 << 30
	DefaultMaxFiles         = 1_000_000
	DefaultMaxPacks         = 50
)

// Credentials open a repository. They are never part of a URL or an error.
type Credentials struct {
	// Username and Password are for http and https. GitHub takes any username
	// with a token as the password.
	Username, Password string
	// SSHKey is a private key in PEM; KnownHosts the path of the file that
	// names the hosts' keys (empty: the user's own).
	SSHKey     []byte
	KnownHosts string
}

// Config of a Cache. Zero numbers mean the defaults above.
type Config struct {
	// Dir holds the mirrors. It belongs to the cache alone.
	Dir string
	// Protocols lists what clone URLs may use; nil means https and ssh.
	Protocols []string
	// Credentials gives what opens a repository; nil or zero Credentials mean none.
	Credentials func(ctx context.Context, repository event.Repository) (Credentials, error)
	// Depth bounds the history that is fetched; 0 means all of it.
	Depth int
	// FetchTimeout bounds one fetch.
	FetchTimeout time.Duration
	// MaxPackBytes bounds what one fetch may transfer.
	MaxPackBytes int64
	// MaxFileBytes, MaxCheckoutBytes and MaxFiles bound a checkout.
	MaxFileBytes     int64
	MaxCheckoutBytes int64
	MaxFiles         int
	// MaxPacks is how many fetches may pile up before a mirror is made anew.
	MaxPacks int
	Log      *zap.Logger // nil means none
}

// Cache is safe for concurrent use, also by several processes.
type Cache struct {
	config  Config
	mu      sync.Mutex
	mirrors map[string]*mirror
}

// Open checks the configuration and makes the directory.
func Open(config Config) (*Cache, error) {
	if config.Dir == "" {
		return nil, errors.New("source cache: no directory is set")
	}
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("source cache: %w", err)
	}
	config.Dir = dir
	for _, p := range config.Protocols {
		switch p {
		case HTTPS, HTTP, SSH, File:
		default:
			return nil, fmt.Errorf("source cache: protocol %q is not supported: use https, http, ssh or file", p)
		}
	}
	if config.Protocols == nil {
		config.Protocols = []string{HTTPS, SSH}
	}
	if config.FetchTimeout == 0 {
		config.FetchTimeout = DefaultFetchTimeout
	}
	if config.MaxPackBytes == 0 {
		config.MaxPackBytes = DefaultMaxPackBytes
	}
	if config.MaxFileBytes == 0 {
		config.MaxFileBytes = DefaultMaxFileBytes
	}
	if config.MaxCheckoutBytes == 0 {
		config.MaxCheckoutBytes = DefaultMaxCheckoutBytes
	}
	if config.MaxFiles == 0 {
		config.MaxFiles = DefaultMaxFiles
	}
	if config.MaxPacks == 0 {
		config.MaxPacks = DefaultMaxPacks
	}
	if config.Log == nil {
		config.Log = zap.NewNop()
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("source cache: %w", err)
	}
	return &Cache{config: config, mirrors: map[string]*mirror{}}, nil
}

// mirror finds the mirror of a repository; it may not exist on disk yet.
func (c *Cache) mirror(repository event.Repository) (*mirror, error) {
	u, err := checkURL(repository.CloneURL, c.config.Protocols)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", repository.FullName, err)
	}
	sum := sha256.Sum256([]byte(u.String()))
	path := filepath.Join(c.config.Dir, hex.EncodeToString(sum[:16])+".git")
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.mirrors[path]
	if !ok {
		m = &mirror{path: path, url: u, fetching: make(chan struct{}, 1), log: c.config.Log.With(zap.String("repository", u.Redacted()))}
		c.mirrors[path] = m
	}
	return m, nil
}

// Fetch makes a commit available: without asking the forge if it is there
// already, else by fetching ref, else by the commit's name alone, and where the
// forge gives none by name, with its branches and tags. Either may be empty: with
// no commit, ref is brought up to date. Fetches of one repository wait for each
// other and share the result.
func (c *Cache) Fetch(ctx context.Context, repository event.Repository, ref, commit string) error {
	m, err := c.mirror(repository)
	if err != nil {
		return err
	}
	if err := c.fetch(ctx, m, repository, ref, commit); err != nil {
		return fmt.Errorf("fetch %s of %s: %w", describe(ref, commit), repository.FullName, err)
	}
	return nil
}

func describe(ref, commit string) string {
	switch {
	case commit == "":
		return ref
	case ref == "":
		return "commit " + commit
	}
	return fmt.Sprintf("commit %s (%s)", commit, ref)
}
