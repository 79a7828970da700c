package rollout

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
	"github.com/tidegate-ci/tidegate/rollout/analysis"
	"github.com/tidegate-ci/tidegate/rollout/health"
)

// Defaults and limits of metric gates.
const (
	DefaultMetricInterval = 10 * time.Second
	MinMetricInterval     = time.Second
	MaxMetricGates        = 10
	MaxQuery              = 4 << 10
	// maxSamples bounds what is kept of one gate in one step, maxAllSamples what
	// is kept of a rollout: the record has to fit into a ConfigMap.
	maxSamples    = 720
	maxAllSamples = 2400
)

// Reasons that metric gates give.
const (
	MetricFailed       health.Reason = "MetricFailed"       // a judge found the release worse than is allowed
	MetricInconclusive health.Reason = "MetricInconclusive" // too little was measured until the deadline
)

// MetricGate judges what is measured while a canary step serves. It has one
// source, and either Query, or Bad and Total, or Value:
//
//   - Query is a number to be within Min and Max;
//   - Bad and Total count requests that went wrong, and all, since the look
//     before: the canary is compared with a baseline by analysis.Counts;
//   - Value is a gauge, such as a latency: compared by analysis.Values.
//
// In queries and in HTTP, $pods stands for a regular expression of the names of
// the pods that are looked at, $podlist for the names with commas, $namespace,
// $app and $interval for what they say.
type MetricGate struct {
	Name string `json:"name"`
	// Prometheus is the address of a server; HTTP a URL that answers with JSON, on
	// which queries are CEL expressions over the variable response.
	Prometheus string `json:"prometheus,omitempty"`
	HTTP       string `json:"http,omitempty"`
	// Datadog, NewRelic and CloudWatch are services of that name.
	Datadog    *DatadogSource    `json:"datadog,omitempty"`
	NewRelic   *NewRelicSource   `json:"newrelic,omitempty"`
	CloudWatch *CloudWatchSource `json:"cloudwatch,omitempty"`
	// Token names a key of a Secret in the application's namespace, sent as a
	// bearer token to Prometheus or HTTP.
	Token *SecretKey `json:"token,omitempty"`

	Query string   `json:"query,omitempty"`
	Min   *float64 `json:"min,omitempty"`
	Max   *float64 `json:"max,omitempty"`
	// Tolerate is how many samples in all may lie outside Min and Max.
	Tolerate int `json:"tolerate,omitempty"`

	Bad   string `json:"bad,omitempty"`
	Total string `json:"total,omitempty"`
	Value string `json:"value,omitempty"`
	// Ratio is how many times worse than the baseline is not worse yet; 0 means 1.
	Ratio          float64 `json:"ratio,omitempty"`
	HigherIsBetter bool    `json:"higherIsBetter,omitempty"`

	// Minimum is how many samples, or with Bad and Total requests on each side,
	// are needed to pass; 0 means 1.
	Minimum int `json:"minimum,omitempty"`
	// Interval between looks; 0 means DefaultMetricInterval.
	Interval time.Duration `json:"interval,omitempty"`
	// Advisory gates neither pass nor fail a step: they are facts for CEL.
	Advisory bool `json:"advisory,omitempty"`
}

// SecretKey names a value in a Secret.
type SecretKey struct {
	Name string `json:"name"`
	Key  string `json:"key"`
}

// Compares tells whether the gate needs a baseline beside the canary.
func (g *MetricGate) Compares() bool { return g.Query == "" }

func (g *MetricGate) queries() []string {
	return slices.DeleteFunc([]string{g.Query, g.Bad, g.Total, g.Value}, func(q string) bool { return q == "" })
}

var gateName = lazyregexp.New(`^[A-Za-z][A-Za-z0-9_-]{0,62}$`)

// check fills in defaults and says what makes no sense.
func (g *MetricGate) check() error {
	if g.Interval == 0 {
		g.Interval = DefaultMetricInterval
		if g.cloud() {
			g.Interval = MinCloudInterval
		}
	}
	switch {
	case !gateName().MatchString(g.Name):
		return fmt.Errorf("name %q: use letters, digits, - and _", g.Name)
	case g.sources() != 1:
		return fmt.Errorf("metric %s: name one source: prometheus, http, datadog, newrelic or cloudwatch", g.Name)
	case g.Query != "" && (g.Bad != "" || g.Total != "" || g.Value != ""),
		g.Value != "" && (g.Bad != "" || g.Total != ""), (g.Bad == "") != (g.Total == ""), len(g.queries()) == 0:
		return fmt.Errorf("metric %s: give query, or bad and total, or value", g.Name)
	case g.Query != "" && g.Min == nil && g.Max == nil:
		return fmt.Errorf("metric %s: give min, max or both", g.Name)
	case g.Query == "" && (g.Min != nil || g.Max != nil || g.Tolerate != 0):
		return fmt.Errorf("metric %s: min, max and tolerate belong to query", g.Name)
	case g.Query != "" && (g.Ratio != 0 || g.HigherIsBetter):
		return fmt.Errorf("metric %s: ratio and higherIsBetter belong to comparisons", g.Name)
	case g.Ratio < 0 || math.IsNaN(g.Ratio) || math.IsInf(g.Ratio, 0) || g.Minimum < 0 || g.Tolerate < 0:
		return fmt.Errorf("metric %s: ratio, minimum and tolerate can't be negative", g.Name)
	case g.Interval < MinMetricInterval || g.Interval > MaxHold:
		return fmt.Errorf("metric %s: interval %s: use %s to %s", g.Name, g.Interval, MinMetricInterval, MaxHold)
	}
	for _, query := range g.queries() {
		if len(query) > MaxQuery {
			return fmt.Errorf("metric %s: a query is longer than %d bytes", g.Name, MaxQuery)
		}
		if g.HTTP == "" {
			continue
		}
		if err := analysis.CheckExpression(query); err != nil {
			return fmt.Errorf("metric %s: %w", g.Name, err)
		}
	}
	if err := g.checkCloud(); err != nil {
		return err
	}
	if _, err := g.source(Target{}, nil, nil); err != nil {
		return fmt.Errorf("metric %s: %w", g.Name, err)
	}
	return nil
}

// source opens the gate's source for a look at pods.
func (g *MetricGate) source(target Target, pods []string, keys credentials) (analysis.Source, error) {
	switch {
	case g.Prometheus != "":
		return analysis.NewPrometheus(g.Prometheus, keys[tokenKey])
	case g.HTTP != "":
		return analysis.NewHTTP(g.fill(g.HTTP, target, pods), keys[tokenKey])
	}
	return g.cloudSource(keys)
}

// fill puts in what stands for $pods and the others. All of it is names that
// Kubernetes has checked, and holds nothing that a query or a URL reads otherwise.
func (g *MetricGate) fill(text string, target Target, pods []string) string {
	return strings.NewReplacer("$podlist", strings.Join(pods, ","), "$pods", strings.Join(pods, "|"), "$namespace", target.Namespace, "$app", target.App,
		"$interval", fmt.Sprintf("%ds", int(math.Ceil(g.Interval.Seconds())))).Replace(text)
}

func (g *MetricGate) judge() analysis.Judge {
	switch {
	case g.Query != "":
		return analysis.Bound{Min: g.Min, Max: g.Max, Tolerate: g.Tolerate, Minimum: g.Minimum}
	case g.Value != "":
		return analysis.Values{Tolerate: g.Ratio, HigherIsBetter: g.HigherIsBetter, Minimum: g.Minimum}
	}
	return analysis.Counts{Tolerate: g.Ratio, Minimum: float64(g.Minimum)}
}

// Analysis is what one gate has seen in one canary step.
type Analysis struct {
	Step    int               `json:"step"`
	Gate    string            `json:"gate"`
	Verdict analysis.Verdict  `json:"verdict"`
	Samples []analysis.Sample `json:"samples,omitempty"`
	// Trouble is why the last look gave no data, if it gave none.
	Trouble string `json:"trouble,omitempty"`
}

// compares tells whether the strategy needs a baseline.
func (s Strategy) compares() bool {
	return slices.ContainsFunc(s.Metrics, func(g MetricGate) bool { return g.Compares() })
}

// analysisOf finds what a gate has seen in the present step; nil before its first look.
func (r *Rollout) analysisOf(gate string) *Analysis {
	for i := range r.Analyses {
		if r.Analyses[i].Step == r.Step && r.Analyses[i].Gate == gate {
			return &r.Analyses[i]
		}
	}
	return nil
}

// sampled is one look of one gate.
type sampled struct {
	step    int
	gate    string
	sample  analysis.Sample
	trouble string
}

// add puts a look into the record and judges anew. A look of a step that is
// over is dropped: its gate has been decided.
func (r *Rollout) add(s sampled) {
	i := slices.IndexFunc(r.Strategy.Metrics, func(g MetricGate) bool { return g.Name == s.gate })
	if i < 0 || !r.State.measured() || s.step != r.Step {
		return
	}
	a := r.analysisOf(s.gate)
	if a == nil {
		r.Analyses = append(r.Analyses, Analysis{Step: r.Step, Gate: s.gate})
		a = &r.Analyses[len(r.Analyses)-1]
	}
	if len(a.Samples) >= maxSamples {
		return // its verdict stands on more than enough
	}
	a.Samples = append(a.Samples, s.sample)
	a.Trouble = clipText(s.trouble)
	a.Verdict = r.Strategy.Metrics[i].judge().Judge(a.Samples)
	r.forgetSamples()
}

// forgetSamples drops the samples of the oldest steps until the rest fits; the
// verdicts stay.
func (r *Rollout) forgetSamples() {
	total := 0
	for i := len(r.Analyses) - 1; i >= 0; i-- {
		if total += len(r.Analyses[i].Samples); total > maxAllSamples && r.Analyses[i].Step != r.Step {
			r.Analyses[i].Samples = nil
		}
	}
}

// failedMetric is the failure of a gate that has found the release worse.
func (r *Rollout) failedMetric() *Failure {
	for _, g := range r.Strategy.Metrics {
		if a := r.analysisOf(g.Name); !g.Advisory && a != nil && a.Verdict.Outcome == analysis.Fail {
			return &Failure{Reason: MetricFailed, Message: fmt.Sprintf("metric %s at %s: %s", g.Name, r.where(), a.Verdict.Why)}
		}
	}
	return nil
}

// openMetric says which gate of the present step has not passed yet, and why;
// empty when all have.
func (r *Rollout) openMetric() string {
	for _, g := range r.Strategy.Metrics {
		a := r.analysisOf(g.Name)
		switch {
		case g.Advisory:
		case a == nil:
			return fmt.Sprintf("metric %s: the first look is due within %s", g.Name, g.Interval)
		case a.Verdict.Outcome != analysis.Pass && a.Trouble != "":
			return fmt.Sprintf("metric %s: %s (%s)", g.Name, a.Verdict.Why, a.Trouble)
		case a.Verdict.Outcome != analysis.Pass:
			return fmt.Sprintf("metric %s: %s", g.Name, a.Verdict.Why)
		}
	}
	return ""
}

// metricGates are the proofs of the metric gates that passed.
func (r *Rollout) metricGates(now time.Time) []Gate {
	var gates []Gate
	for _, g := range r.Strategy.Metrics {
		if a := r.analysisOf(g.Name); a != nil {
			gates = append(gates, Gate{Step: r.Step, Kind: "metric " + g.Name, Passed: a.Verdict.Outcome == analysis.Pass, Evidence: a.Verdict.Why, At: now})
		}
	}
	return gates
}

// checkMetrics examines the gates of a strategy.
func checkMetrics(s *Strategy) error {
	if len(s.Metrics) > MaxMetricGates {
		return fmt.Errorf("%w: %d metric gates; at most %d", ErrInvalid, len(s.Metrics), MaxMetricGates)
	}
	names := map[string]bool{}
	for i := range s.Metrics {
		if err := s.Metrics[i].check(); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if names[s.Metrics[i].Name] {
			return fmt.Errorf("%w: two metric gates are named %s", ErrInvalid, s.Metrics[i].Name)
		}
		names[s.Metrics[i].Name] = true
	}
	encoded, err := json.Marshal(s.Metrics)
	if err != nil {
		return fmt.Errorf("%w: metric gates: %w", ErrInvalid, err)
	}
	if len(encoded) > maxMetricBytes {
		return fmt.Errorf("%w: the metric gates are %d bytes; at most %d fit the record", ErrInvalid, len(encoded), maxMetricBytes)
	}
	return nil
}

// maxMetricBytes bounds the gates of one strategy in the record, which keeps
// them for every revision of the history.
const maxMetricBytes = 16 << 10
