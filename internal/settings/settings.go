// Package settings reads the configuration of a Tidegate server or a local run:
// one strict YAML file, in which secrets are named (an environment variable or
// a file) and never written.
package settings

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/tidegate-ci/tidegate/rollout"
)

// MaxFileBytes bounds a settings file and each secret file.
const MaxFileBytes = 1 << 20

// Settings is the whole file. Zero fields have the defaults that Default gives.
type Settings struct {
	// Listen is the address of hooks and API; loopback unless set.
	Listen string `yaml:"listen,omitempty"`
	// Data is the directory for journal, inbox, caches and the embedded registry.
	Data         string                 `yaml:"data,omitempty"`
	GitHub       GitHub                 `yaml:"github,omitempty"`
	Registry     Registry               `yaml:"registry,omitempty"`
	Build        Build                  `yaml:"build,omitempty"`
	Repositories []Repository           `yaml:"repositories,omitempty"`
	Environments map[string]Environment `yaml:"environments,omitempty"`
	// Notifications are those who are told of rollouts.
	Notifications []Notification `yaml:"notifications,omitempty"`
	Limits        Limits         `yaml:"limits,omitempty"`
}

// GitHub says where the forge's API is.
type GitHub struct {
	// API is the base URL; empty means github.com's. GitHub Enterprise: https://HOST/api/v3/.
	API string `yaml:"api,omitempty"`
	// Deployments shows rollouts as deployments of the repositories that have a
	// token; it needs the right to write deployments.
	Deployments bool `yaml:"deployments,omitempty"`
}

// Registry says where images go and come from.
type Registry struct {
	// Listen is the loopback address of the embedded registry; "off" disables it.
	Listen string `yaml:"listen,omitempty"`
	// Push is the host (and path) put before repositories that name none; empty
	// means the embedded registry.
	Push string `yaml:"push,omitempty"`
	// Mirrors maps a registry ("docker.io") to hosts that are asked first.
	Mirrors map[string][]string `yaml:"mirrors,omitempty"`
}

// Build holds builds to what the operator wants.
type Build struct {
	// Policy is a file that says which images builds may use; empty allows all.
	// Pipelines can't change it.
	Policy string `yaml:"policy,omitempty"`
	// BuilderID names this server in provenance, a URI.
	BuilderID string `yaml:"builder-id,omitempty"`
}

// Repository is one that may start runs here.
type Repository struct {
	// Name is owner/name as the forge writes it.
	Name string `yaml:"name"`
	// Clone overrides the URL that source is fetched from; https://github.com/NAME.git when empty.
	Clone string `yaml:"clone,omitempty"`
	// DefaultBranch is the branch whose pipelines' schedules run; main when empty.
	DefaultBranch string `yaml:"default-branch,omitempty"`
	// WebhookSecret is required: an unsigned hook is never accepted.
	WebhookSecret Secret `yaml:"webhook-secret"`
	// Token fetches private source and writes commit statuses; optional.
	Token Secret `yaml:"token,omitempty"`
	// SSHKey fetches source when Clone is an SSH URL: a private key in PEM without
	// a passphrase, such as that of a deploy key. Without it the agent of whoever
	// started the server is asked.
	SSHKey Secret `yaml:"ssh-key,omitempty"`
	// KnownHosts is a file with the keys of SSH servers; empty means the user's own.
	KnownHosts string `yaml:"known-hosts,omitempty"`
	// Secrets become environment variables of trusted run stages, by name.
	Secrets map[string]Secret `yaml:"secrets,omitempty"`
}

// Environment is a target for deploys.
type Environment struct {
	// Kubeconfig is a path; empty means KUBECONFIG, then the usual places, then in-cluster.
	Kubeconfig string `yaml:"kubeconfig,omitempty"`
	Context    string `yaml:"context,omitempty"`
	Namespace  string `yaml:"namespace,omitempty"` // "default" when empty
	// Repositories restricts which may deploy here; empty means any of this server.
	Repositories []string `yaml:"repositories,omitempty"`
	// Branches and Tags are patterns of what may be deployed here. When either is
	// set, anything else is refused, pull requests included; without both, any
	// branch or tag of the repository itself may. Forks never may.
	Branches []string `yaml:"branches,omitempty"`
	Tags     []string `yaml:"tags,omitempty"`
	// Deployers are the people, and groups of them, whose pushes and starts may
	// deploy here; a schedule's name is "schedule". Empty means anyone.
	Deployers []string `yaml:"deployers,omitempty"`
	// PrivateWebhooks lets webhook gates of rollouts reach private networks and
	// this machine, where services inside the cluster are; otherwise only the
	// public internet: pipelines say the address.
	PrivateWebhooks bool `yaml:"private-webhooks,omitempty"`
	// Freeze are windows in which no release is begun here: it is held until they
	// end, or someone overrides them with a reason. Rollbacks are never held.
	Freeze []Freeze `yaml:"freeze,omitempty"`
	// RollbackWindow is how far back a rollback may go without --force.
	RollbackWindow RollbackWindow `yaml:"rollback-window,omitempty"`
	// Clusters are those that the environment is made of, when it has several;
	// what one leaves out is the environment's.
	Clusters []Cluster `yaml:"clusters,omitempty"`
	// Waves say in which order they move, each after the one before; without
	// them, it is one cluster after another.
	Waves [][]string `yaml:"waves,omitempty"`
	// Between is what must pass before the next wave begins.
	Between Between `yaml:"between-waves,omitempty"`
	// OnFailure is what happens to clusters that have moved when a later one
	// fails: roll-back (when empty) or stop.
	OnFailure string `yaml:"on-failure,omitempty"`
}

// Freeze is one window: Cron and Duration, or From and Until.
type Freeze struct {
	// Cron says when it begins: minute, hour, day of month, month, day of week.
	Cron     string        `yaml:"cron,omitempty"`
	Duration time.Duration `yaml:"duration,omitempty"`
	// From and Until are "2026-12-20T00:00" or "2026-12-20", in the zone.
	From  string `yaml:"from,omitempty"`
	Until string `yaml:"until,omitempty"`
	// Zone is an IANA name such as Europe/Berlin; UTC when empty.
	Zone   string `yaml:"zone,omitempty"`
	Reason string `yaml:"reason,omitempty"`
}

// freezeLayouts are how From and Until may be written.
var freezeLayouts = []string{"2006-01-02T15:04", time.DateOnly}

// Window is what the settings mean.
func (f Freeze) Window() (rollout.Window, error) {
	w := rollout.Window{Cron: f.Cron, Duration: f.Duration, Zone: f.Zone, Reason: f.Reason}
	zone := f.Zone
	if zone == "" {
		zone = "UTC"
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return w, fmt.Errorf("zone %q: use a name such as Europe/Berlin", f.Zone)
	}
	if w.From, err = localTime("from", f.From, location); err != nil {
		return w, err
	}
	if w.Until, err = localTime("until", f.Until, location); err != nil {
		return w, err
	}
	return w, w.Check()
}

func localTime(key, text string, location *time.Location) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range freezeLayouts {
		if at, err := time.ParseInLocation(layout, text, location); err == nil {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s %q: write it like 2026-12-20T08:00 or 2026-12-20", key, text)
}

// Limits bound what runs at once.
type Limits struct {
	Runs   int `yaml:"runs,omitempty"`   // 0 means DefaultRuns
	Stages int `yaml:"stages,omitempty"` // 0 means DefaultStages
	// KeepRuns is how many finished runs stay in the journal; 0 means DefaultKeepRuns.
	KeepRuns int `yaml:"keep-runs,omitempty"`
	// CacheBytes bounds what builds keep (layers, unpacked ones too, and cache
	// mounts) at every moment, and again the caches of run stages, which are
	// looked at every hour; 0 means DefaultCacheBytes.
	CacheBytes int64 `yaml:"cache-bytes,omitempty"`
}

// Defaults of Limits.
const (
	DefaultRuns     = 8
	DefaultStages   = 8
	DefaultKeepRuns = 10_000
	// DefaultCacheBytes is 20 GiB.
	DefaultCacheBytes = 20 << 30
)

// LeaseTTL is how long a run stays with a worker that says nothing: the time a
// takeover waits after a crash of another process. The same data directory is
// locked by one process, so a restart does not wait for it.
const LeaseTTL = 10 * time.Second

// Secret names where a secret is: exactly one of Env and File.
type Secret struct {
	Env  string `yaml:"env,omitempty"`
	File string `yaml:"file,omitempty"`
}

// Set tells whether the secret is named at all.
func (s Secret) Set() bool { return s.Env != "" || s.File != "" }

// Value reads the secret. An empty value is an error: it would switch off what
// it guards.
func (s Secret) Value() (string, error) {
	var value string
	switch {
	case s.Env != "" && s.File != "":
		return "", errors.New("a secret names both env and file: keep one")
	case s.Env != "":
		value = os.Getenv(s.Env)
		if value == "" {
			return "", fmt.Errorf("environment variable %s is empty or not set", s.Env)
		}
	case s.File != "":
		data, err := readBounded(s.File)
		if err != nil {
			return "", fmt.Errorf("read secret: %w", err)
		}
		value = strings.TrimRight(string(data), "\r\n")
		if value == "" {
			return "", fmt.Errorf("secret file %s is empty", s.File)
		}
	default:
		return "", errors.New("no secret is named: set env or file")
	}
	return value, nil
}

// Load reads and checks a settings file; relative paths in it are taken from
// the file's own directory.
func Load(path string) (Settings, error) {
	data, err := readBounded(path)
	if err != nil {
		return Settings{}, fmt.Errorf("read settings: %w", err)
	}
	s, err := Parse(path, data)
	if err != nil {
		return Settings{}, err
	}
	s.absolute(filepath.Dir(path))
	return s, nil
}

// Parse decodes settings strictly and fills in defaults; name is for messages.
func Parse(name string, data []byte) (Settings, error) {
	var s Settings
	if len(strings.TrimSpace(string(data))) > 0 {
		if err := yaml.UnmarshalWithOptions(data, &s, yaml.Strict()); err != nil {
			// Without the source line: somebody may have written a secret into it.
			return Settings{}, fmt.Errorf("settings %s: %s", name, yaml.FormatError(err, false, false))
		}
	}
	s.fillDefaults()
	if err := s.validate(); err != nil {
		return Settings{}, fmt.Errorf("settings %s: %w", name, err)
	}
	return s, nil
}

// Default is what an empty file means.
func Default() Settings {
	var s Settings
	s.fillDefaults()
	return s
}

func (s *Settings) fillDefaults() {
	setDefault(&s.Listen, "127.0.0.1:8080")
	setDefault(&s.Data, defaultData())
	setDefault(&s.Registry.Listen, "127.0.0.1:5000")
	if s.Registry.Push == "" && s.Registry.Embedded() {
		s.Registry.Push = s.Registry.Listen
	}
	for i := range s.Repositories {
		r := &s.Repositories[i]
		setDefault(&r.Clone, "https://github.com/"+r.Name+".git")
		setDefault(&r.DefaultBranch, "main")
	}
	for name, e := range s.Environments {
		setDefault(&e.Namespace, "default")
		s.Environments[name] = e
	}
	setDefault(&s.Limits.Runs, DefaultRuns)
	setDefault(&s.Limits.Stages, DefaultStages)
	setDefault(&s.Limits.KeepRuns, DefaultKeepRuns)
	setDefault(&s.Limits.CacheBytes, DefaultCacheBytes)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func defaultData() string {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "tidegate")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "tidegate")
	}
	return "/var/lib/tidegate"
}

// Embedded tells whether this server runs its own registry.
func (r Registry) Embedded() bool { return r.Listen != "off" }

func (s *Settings) validate() error {
	seen := map[string]bool{}
	for i, r := range s.Repositories {
		owner, name, ok := strings.Cut(r.Name, "/")
		if !ok || owner == "" || name == "" || strings.Contains(name, "/") {
			return fmt.Errorf("repositories[%d]: name %q must be owner/name", i, r.Name)
		}
		if seen[strings.ToLower(r.Name)] {
			return fmt.Errorf("repositories[%d]: %s is listed twice", i, r.Name)
		}
		seen[strings.ToLower(r.Name)] = true
		if !r.WebhookSecret.Set() {
			return fmt.Errorf("repository %s: webhook-secret is required: make one with `openssl rand -hex 32`, put it into a file and name it as webhook-secret: {file: …}", r.Name)
		}
	}
	for name, e := range s.Environments {
		if len(e.Freeze) > rollout.MaxWindows {
			return fmt.Errorf("environment %s: %d freeze windows; at most %d", name, len(e.Freeze), rollout.MaxWindows)
		}
		if err := e.checkWaves(); err != nil {
			return fmt.Errorf("environment %s: %w", name, err)
		}
		if err := e.checkRefs(); err != nil {
			return fmt.Errorf("environment %s: %w", name, err)
		}
		for i, window := range e.Freeze {
			if _, err := window.Window(); err != nil {
				return fmt.Errorf("environment %s: freeze[%d]: %w", name, i, err)
			}
		}
	}
	if err := s.checkNotifications(); err != nil {
		return err
	}
	if s.Registry.Push == "" {
		return errors.New("registry: push is required when the embedded registry is off")
	}
	if s.Limits.Runs < 0 || s.Limits.Stages < 0 || s.Limits.KeepRuns < 0 || s.Limits.CacheBytes < 0 {
		return errors.New("limits: negative values make no sense")
	}
	return nil
}

// absolute makes relative paths relative to dir.
func (s *Settings) absolute(dir string) {
	join := func(path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	s.Data, s.Build.Policy = join(s.Data), join(s.Build.Policy)
	for i := range s.Repositories {
		r := &s.Repositories[i]
		r.WebhookSecret.File = join(r.WebhookSecret.File)
		r.Token.File, r.SSHKey.File, r.KnownHosts = join(r.Token.File), join(r.SSHKey.File), join(r.KnownHosts)
		for name, secret := range r.Secrets {
			secret.File = join(secret.File)
			r.Secrets[name] = secret
		}
	}
	for _, n := range s.Notifications {
		if n.Webhook != nil {
			n.Webhook.Secret.File = join(n.Webhook.Secret.File)
		}
		if n.Slack != nil {
			n.Slack.URL.File = join(n.Slack.URL.File)
		}
	}
	for name, e := range s.Environments {
		e.Kubeconfig = join(e.Kubeconfig)
		for i := range e.Clusters {
			e.Clusters[i].Kubeconfig = join(e.Clusters[i].Kubeconfig)
		}
		s.Environments[name] = e
	}
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, MaxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > MaxFileBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, MaxFileBytes)
	}
	return data, nil
}
