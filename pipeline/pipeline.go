// Package pipeline is the language and its meaning: what a pipeline file may
// say, how an event turns it into a plan, and what a stage kind must provide.
// It imports no sibling; stages, triggers and rollout plug into it.
package pipeline

import (
	"fmt"
	"time"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// Position is a place in a pipeline file, for messages. Lines and columns count
// from 1; the zero value means "unknown".
type Position struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

func (p Position) String() string {
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Pipeline is what one pipeline file says, parsed and checked but not yet bound
// to an event: `${{ }}` values are still text.
type Pipeline struct {
	Version     int               `json:"version"`
	Name        string            `json:"name"`
	On          Triggers          `json:"on"`
	Concurrency *Concurrency      `json:"concurrency,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
	// Stages keeps the order of the file.
	Stages []Stage `json:"stages"`
	// Finally stages run after all others ended, whatever happened.
	Finally []Stage  `json:"finally,omitempty"`
	Pos     Position `json:"pos"`
}

// Triggers says which events start the pipeline. A nil field does not match.
type Triggers struct {
	Push        *PushTrigger      `json:"push,omitempty"`
	PullRequest *PushTrigger      `json:"pull_request,omitempty"`
	Schedule    []ScheduleTrigger `json:"schedule,omitempty"`
	Manual      *ManualTrigger    `json:"manual,omitempty"`
}

// PushTrigger filters by branch, tag and path globs (doublestar syntax; one that
// begins with ! takes back what earlier ones let in). Empty lists match
// everything of their sort, with two exceptions: a push of a tag matches only if
// Tags is set, and where Tags alone is set, pushes of branches do not match.
type PushTrigger struct {
	Branches       []string `json:"branches,omitempty"`
	BranchesIgnore []string `json:"branches-ignore,omitempty"`
	Tags           []string `json:"tags,omitempty"`
	Paths          []string `json:"paths,omitempty"`
	PathsIgnore    []string `json:"paths-ignore,omitempty"`
}

// ScheduleTrigger is a five-field cron expression in an IANA time zone (UTC when empty).
type ScheduleTrigger struct {
	Cron     string `json:"cron"`
	Timezone string `json:"timezone,omitempty"`
}

// ManualTrigger allows `tidegate run` and the API to start the pipeline by hand.
type ManualTrigger struct {
	Inputs map[string]Input `json:"inputs,omitempty"`
}

// Input is a value asked for when a run is started by hand.
type Input struct {
	Type     string   `json:"type,omitempty"` // string (default), boolean, number, choice
	Default  string   `json:"default,omitempty"`
	Required bool     `json:"required,omitempty"`
	Choices  []string `json:"choices,omitempty"`
}

// Concurrency serialises runs whose evaluated Group is equal, per repository.
type Concurrency struct {
	Group            string `json:"group"`
	CancelInProgress bool   `json:"cancel-in-progress,omitempty"`
}

// Stage is a node of the graph as the file writes it. Exactly one of Run,
// Build, Deploy and Approve gives it its kind, except that Approve may stand
// beside another: then the plan holds an approval stage in front of it.
type Stage struct {
	Name  string   `json:"name"`
	Needs []string `json:"needs,omitempty"`
	// When is a CEL condition; empty means "every need succeeded".
	When    string            `json:"when,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	Matrix  []MatrixAxis      `json:"matrix,omitempty"`
	Retry   Retry             `json:"retry"`
	Timeout time.Duration     `json:"timeout,omitempty"` // one attempt; 0 means DefaultTimeout

	Run     *RunSpec     `json:"run,omitempty"`
	Build   *BuildSpec   `json:"build,omitempty"`
	Deploy  *DeploySpec  `json:"deploy,omitempty"`
	Approve *ApproveSpec `json:"approve,omitempty"`

	Pos Position `json:"pos"`
}

// DefaultTimeout bounds an attempt of a stage that sets none. Approvals use
// their own timeout.
const DefaultTimeout = time.Hour

// MatrixAxis is one named axis, in the order of the file.
type MatrixAxis struct {
	Name   string   `json:"name"`
	Values []string `json:"values"`
}

// Retry says how often a failed attempt is repeated (Max more times) and for
// which causes; On empty means infrastructure only.
type Retry struct {
	Max int     `json:"max,omitempty"`
	On  []Cause `json:"on,omitempty"`
}

// RunSpec is a command in a sandbox.
type RunSpec struct {
	// Command is a script for Shell. It never holds `${{ }}`.
	Command string `json:"command"`
	// Shell runs the script as `Shell -c`-like argv; empty means ["sh","-e","-c"].
	Shell []string `json:"shell,omitempty"`
	// Image is the reference whose root filesystem the command sees; empty
	// means the host sandbox.
	Image string `json:"image,omitempty"`
	// WorkingDirectory is relative to the checkout.
	WorkingDirectory string `json:"working-directory,omitempty"`
	// Cache lists directories kept between runs of the same repository, trust
	// and image; "~" is the home of the sandbox's user.
	Cache []string `json:"cache,omitempty"`
	// Network is "none" (default with an image) or "host".
	Network string `json:"network,omitempty"`
}

// BuildSpec is an image built from a Dockerfile.
type BuildSpec struct {
	Context    string            `json:"context,omitempty"` // relative to the checkout; "." when empty
	Dockerfile string            `json:"dockerfile,omitempty"`
	Target     string            `json:"target,omitempty"`
	Args       map[string]string `json:"args,omitempty"`
	// Push is the repository, with or without a registry host and tag. Without
	// a host it means the default registry of whoever runs the pipeline.
	Push string `json:"push"`
	// Tags are set in the repository of Push, beside the one Push has.
	Tags []string `json:"tags,omitempty"`
	// Platforms make an image index when there are several.
	Platforms []string          `json:"platforms,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	// Annotations are by "[LEVEL[PLATFORM]:]NAME"; without a level they are the
	// manifest's.
	Annotations map[string]string `json:"annotations,omitempty"`
	NoCache     bool              `json:"no-cache,omitempty"`
	// Contexts are further build contexts by name: directories relative to the
	// checkout, Git or archive URLs, or docker-image://REFERENCE.
	Contexts map[string]string `json:"contexts,omitempty"`
	// Secrets and SSH give ids to variables of the stage: Secrets for files and
	// variables of RUN --mount=type=secret, SSH for private keys whose agent
	// RUN --mount=type=ssh sees.
	Secrets map[string]string `json:"secrets,omitempty"`
	SSH     map[string]string `json:"ssh,omitempty"`
	// Cache are the caches in registries to read and write; nil means that
	// layers are kept on the worker alone.
	Cache *BuildCacheSpec `json:"cache,omitempty"`
	// Provenance is min or max; empty attaches none.
	Provenance string `json:"provenance,omitempty"`
	// SBOM attaches a list of the image's packages.
	SBOM bool `json:"sbom,omitempty"`
	// Sign signs what is pushed; nil signs nothing.
	Sign *SignSpec `json:"sign,omitempty"`
	// With names another builder; nil means Tidegate's own.
	With     *WithSpec     `json:"with,omitempty"`
	BuildKit *BuildKitSpec `json:"buildkit,omitempty"`
}

// BuildCacheSpec carries layers between workers through a registry. Names are
// as in BuildSpec.Push; one without a tag means the cache of the repository the
// pipeline belongs to. A run of a fork reads and never writes.
type BuildCacheSpec struct {
	From []string `json:"from,omitempty"` // caches, or images with an inline one
	To   []string `json:"to,omitempty"`
	Mode string   `json:"mode,omitempty"` // min or max; max when empty
}

// SignSpec names the secrets that images are signed with.
type SignSpec struct {
	Key      string `json:"key"`
	Password string `json:"password,omitempty"`
}

// WithSpec is another builder: exactly one of Builder ("buildkit") and Command.
type WithSpec struct {
	Builder string `json:"builder,omitempty"`
	// Command is a script, as in RunSpec, and never holds `${{ }}`; Image and
	// Network are as there.
	Command string `json:"command,omitempty"`
	Image   string `json:"image,omitempty"`
	Network string `json:"network,omitempty"`
}

// BuildKitSpec says where a buildkitd is. CA, Cert and Key are names of secrets.
type BuildKitSpec struct {
	Address    string `json:"address"`
	CA         string `json:"ca,omitempty"`
	Cert       string `json:"cert,omitempty"`
	Key        string `json:"key,omitempty"`
	ServerName string `json:"server-name,omitempty"`
}

// DeploySpec puts a release into an environment.
type DeploySpec struct {
	Environment string `json:"environment"`
	// Manifests are files or directories relative to the checkout, Kustomize a
	// directory with a kustomization, Helm a chart; one of them is set at least.
	Manifests []string  `json:"manifests,omitempty"`
	Kustomize string    `json:"kustomize,omitempty"`
	Helm      *HelmSpec `json:"helm,omitempty"`
	// Images are fields of custom resources that hold images.
	Images []ImageFieldSpec `json:"images,omitempty"`
	// Readiness says when custom resources are ready; without a rule, their
	// conditions tell.
	Readiness []ReadinessSpec `json:"readiness,omitempty"`
	// App names the release within the environment; the pipeline's name when empty.
	App      string       `json:"app,omitempty"`
	Strategy StrategySpec `json:"strategy"`
	// Bake is how long new pods must stay good before a step counts as passed;
	// nil means the rollout package's safe default, zero is the explicit choice not to.
	Bake *time.Duration `json:"bake,omitempty"`
	// Deadline bounds the progress of the rollout; 0 means the rollout package's default.
	Deadline time.Duration `json:"deadline,omitempty"`
	// Hooks are Jobs around the release; nil means none.
	Hooks *HooksSpec `json:"hooks,omitempty"`
	// Promote takes the images of another environment; nil means those that the run built.
	Promote *PromoteSpec `json:"promote,omitempty"`
	// OnRollback is what happens when the release is taken back by itself:
	// "revert-pull-request", or nothing when empty.
	OnRollback string `json:"on-rollback,omitempty"`
}

// StrategySpec picks a strategy; all nil means rolling.
type StrategySpec struct {
	Rolling   *RollingSpec   `json:"rolling,omitempty"`
	Canary    *CanarySpec    `json:"canary,omitempty"`
	BlueGreen *BlueGreenSpec `json:"blue-green,omitempty"`
	Recreate  *RecreateSpec  `json:"recreate,omitempty"`
}

// RollingSpec is an update of the workload in place by its own controller.
type RollingSpec struct {
	// Batch is how many pods of a StatefulSet are replaced between two gates: a
	// number, or a percentage with its sign; the rollout package's default when empty.
	Batch string `json:"batch,omitempty"`
}

// BlueGreenSpec runs the whole new version beside the old one, and then
// switches the live Services.
type BlueGreenSpec struct {
	// Hold is how long the preview must stay good before the switch; the bake
	// time where that is longer.
	Hold time.Duration `json:"hold,omitempty"`
	// KeepOld is how long the old version is kept after the switch; nil means the
	// rollout package's default.
	KeepOld *time.Duration `json:"keep-old,omitempty"`
	// Gates must all pass before the switch and again after it.
	Gates []GateSpec `json:"gates,omitempty"`
}

// RecreateSpec removes the old pods before the new ones come.
type RecreateSpec struct{}

// CanarySpec is a second workload beside the untouched stable one.
type CanarySpec struct {
	Steps []CanaryStep `json:"steps"`
	// Gates must all pass at every step, beside the health of its pods.
	Gates []GateSpec `json:"gates,omitempty"`
	// Traffic names routes that give the new version its share; nil means by the
	// number of its pods.
	Traffic *TrafficSpec `json:"traffic,omitempty"`
}

// TrafficSpec lists routes by router, as kubectl names them, such as httproute/shop.
type TrafficSpec struct {
	Gateway []string `json:"gateway,omitempty"`
	Nginx   []string `json:"nginx,omitempty"`
	Istio   []string `json:"istio,omitempty"`
	Traefik []string `json:"traefik,omitempty"`
}

// MatchSpec picks requests whose Header, or whose Cookie, has this very Value.
type MatchSpec struct {
	Header string `json:"header,omitempty"`
	Cookie string `json:"cookie,omitempty"`
	Value  string `json:"value"`
}

// GateSpec is a gate of a canary step, or of blue-green; exactly one field is set.
type GateSpec struct {
	Metric   *MetricSpec       `json:"metric,omitempty"`
	Job      *JobGateSpec      `json:"job,omitempty"`
	Webhook  *WebhookGateSpec  `json:"webhook,omitempty"`
	Approval *ApprovalGateSpec `json:"approval,omitempty"`
	CEL      *CELGateSpec      `json:"cel,omitempty"`
}

// MetricSpec judges what is measured of the canary: Query against Min and Max,
// or Bad of Total requests, or a Value, against a fresh baseline.
type MetricSpec struct {
	Name string `json:"name"`
	// Prometheus is the address of a server, HTTP a URL that answers with JSON, the
	// others are services of that name; one of them is set.
	Prometheus string          `json:"prometheus,omitempty"`
	HTTP       string          `json:"http,omitempty"`
	Datadog    *DatadogSpec    `json:"datadog,omitempty"`
	NewRelic   *NewRelicSpec   `json:"newrelic,omitempty"`
	CloudWatch *CloudWatchSpec `json:"cloudwatch,omitempty"`
	Token      *SecretKey      `json:"token,omitempty"`

	Query    string   `json:"query,omitempty"`
	Min      *float64 `json:"min,omitempty"`
	Max      *float64 `json:"max,omitempty"`
	Tolerate int      `json:"tolerate,omitempty"`

	Bad            string  `json:"bad,omitempty"`
	Total          string  `json:"total,omitempty"`
	Value          string  `json:"value,omitempty"`
	Ratio          float64 `json:"ratio,omitempty"`
	HigherIsBetter bool    `json:"higher-is-better,omitempty"`

	Minimum  int           `json:"minimum,omitempty"`
	Interval time.Duration `json:"interval,omitempty"`
	Advisory bool          `json:"advisory,omitempty"`
}

// SecretKey names a key of a Secret in the environment's namespace.
type SecretKey struct {
	Name string `json:"name"`
	Key  string `json:"key"`
}

// CanaryStep sends Weight percent to the new version and holds that for Hold
// once the pods are healthy, before its gate may pass.
type CanaryStep struct {
	Weight int           `json:"weight"`
	Hold   time.Duration `json:"hold,omitempty"`
	// Match picks requests that go to the new version beside those; nil picks none.
	Match *MatchSpec `json:"match,omitempty"`
}

// ApproveSpec waits for a person.
type ApproveSpec struct {
	// From lists who may approve (users or groups of the server); empty means any authenticated user.
	From    []string      `json:"from,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"` // 0 means DefaultApprovalTimeout
	Message string        `json:"message,omitempty"`
}

// DefaultApprovalTimeout bounds the wait for an approval that sets none.
const DefaultApprovalTimeout = 24 * time.Hour

// Plan is a pipeline bound to one event: matrix expanded, `${{ }}` that depends
// only on the event evaluated, conditions that can be known decided, graph
// checked. It is immutable, recorded whole in the journal, and self-contained.
type Plan struct {
	Pipeline string      `json:"pipeline"`
	File     string      `json:"file"`
	Event    event.Event `json:"event"`
	// ConcurrencyGroup is evaluated; empty means no group.
	ConcurrencyGroup string `json:"concurrencyGroup,omitempty"`
	CancelInProgress bool   `json:"cancelInProgress,omitempty"`
	// Inputs are the values of every declared input: given, default or empty.
	Inputs map[string]string `json:"inputs,omitempty"`
	// Problem, when set, says why the pipeline cannot run for the event (its
	// file is wrong): such a plan has no stages, and its run fails with this
	// text, so that whoever pushed finds it where they look.
	Problem string `json:"problem,omitempty"`
	// Reused holds stages, by ID, whose result is taken over from an earlier run.
	Reused map[string]Reused `json:"reused,omitempty"`
	// Stages are in a topological order that is stable for equal input.
	Stages []PlannedStage `json:"stages"`
}

// Reused is what an earlier run's stage handed on.
type Reused struct {
	RunID   string  `json:"runID"`
	Outputs Outputs `json:"outputs,omitempty"`
}

// PlannedStage is a stage of a plan. The values in its specs and Env are still
// templates: `${{ }}` that refers to stages it needs is filled in by Resolve at
// dispatch, which also turns the escape `$${{` into `${{`.
type PlannedStage struct {
	// ID is unique in the plan: the stage's name, with matrix values appended
	// as in "unit (race=true)", or "production/approval" for a split approval.
	ID string `json:"id"`
	// Name is the stage's name in the file.
	Name  string   `json:"name"`
	Kind  KindName `json:"kind"`
	Needs []string `json:"needs,omitempty"` // IDs
	// When as in Stage; "false" when planning already decided against it.
	When string `json:"when,omitempty"`
	// Finally stages wait for every other stage to end.
	Finally bool              `json:"finally,omitempty"`
	Matrix  map[string]string `json:"matrix,omitempty"`
	// Env is the environment of pipeline and stage merged, and matrix values as MATRIX_<NAME>.
	Env     map[string]string `json:"env,omitempty"`
	Retry   Retry             `json:"retry"`
	Timeout time.Duration     `json:"timeout"`

	Run     *RunSpec     `json:"run,omitempty"`
	Build   *BuildSpec   `json:"build,omitempty"`
	Deploy  *DeploySpec  `json:"deploy,omitempty"`
	Approve *ApproveSpec `json:"approve,omitempty"`

	Pos Position `json:"pos"`
}
