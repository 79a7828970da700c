package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/rollout/analysis"
)

// MinCloudInterval is the least time between looks at a service such as Datadog:
// none of them resolves less by itself.
const MinCloudInterval = time.Minute

// DatadogSource is a Datadog organisation. Its keys are read from a Secret in
// the application's namespace, at every look.
type DatadogSource struct {
	// Site is one of analysis.DatadogSites; "" means datadoghq.com.
	Site string `json:"site,omitempty"`
	// Secret has the keys api-key and app-key.
	Secret string `json:"secret"`
}

// NewRelicSource is a New Relic account.
type NewRelicSource struct {
	Account int64 `json:"account"`
	// Region is us or eu; "" means us.
	Region string `json:"region,omitempty"`
	// Secret has the key api-key: a user key.
	Secret string `json:"secret"`
}

// CloudWatchSource is CloudWatch in one AWS region.
type CloudWatchSource struct {
	Region string `json:"region"`
	// Secret has the keys access-key-id and secret-access-key, and session-token
	// if the identity's keys expire.
	Secret string `json:"secret"`
}

// The keys in the Secrets of sources.
const (
	tokenKey         = "token"
	apiKey           = "api-key"
	appKey           = "app-key"
	accessKeyID      = "access-key-id"
	secretAccessKey  = "secret-access-key"
	sessionTokenKey  = "session-token"
	cloudSecretTitle = "keys of the metric's source"
)

// credentials are what a source is given with a question.
type credentials map[string]string

// cloud tells whether the source is a service that is asked by the minute.
func (g *MetricGate) cloud() bool {
	return g.Datadog != nil || g.NewRelic != nil || g.CloudWatch != nil
}

// sources counts those that are set.
func (g *MetricGate) sources() int {
	n := 0
	for _, set := range []bool{g.Prometheus != "", g.HTTP != "", g.Datadog != nil, g.NewRelic != nil, g.CloudWatch != nil} {
		if set {
			n++
		}
	}
	return n
}

// checkCloud examines a gate whose source is a service.
func (g *MetricGate) checkCloud() error {
	switch {
	case !g.cloud():
		return nil
	case g.secretName() == "":
		return fmt.Errorf("metric %s: name the Secret that has the source's keys", g.Name)
	case g.Token != nil:
		return fmt.Errorf("metric %s: token belongs to prometheus and http", g.Name)
	case g.Interval < MinCloudInterval:
		return fmt.Errorf("metric %s: interval %s: the service is asked once a minute at most", g.Name, g.Interval)
	case g.CloudWatch != nil && g.Compares():
		return fmt.Errorf("metric %s: CloudWatch knows no pods, so that nothing can be compared; use query with min or max", g.Name)
	}
	if g.NewRelic == nil {
		return nil
	}
	for _, query := range g.queries() {
		if err := analysis.CheckNRQL(query); err != nil {
			return fmt.Errorf("metric %s: %w", g.Name, err)
		}
	}
	return nil
}

// cloudSource opens a service. Counts are summed over a look's interval.
func (g *MetricGate) cloudSource(keys credentials) (analysis.Source, error) {
	look := analysis.Look{Interval: g.Interval, Sum: g.Bad != ""}
	switch {
	case g.Datadog != nil:
		return analysis.NewDatadog(g.Datadog.Site, keys[apiKey], keys[appKey], look)
	case g.NewRelic != nil:
		return analysis.NewNewRelic(g.NewRelic.Region, g.NewRelic.Account, keys[apiKey], look)
	}
	return analysis.NewCloudWatch(g.CloudWatch.Region, analysis.AWSKeys{ID: keys[accessKeyID], Secret: keys[secretAccessKey], Session: keys[sessionTokenKey]}, look)
}

func (g *MetricGate) secretName() string {
	switch {
	case g.Datadog != nil:
		return g.Datadog.Secret
	case g.NewRelic != nil:
		return g.NewRelic.Secret
	case g.CloudWatch != nil:
		return g.CloudWatch.Secret
	}
	return ""
}

// secretKeys are those that the Secret of a service must have.
func (g *MetricGate) secretKeys() []string {
	switch {
	case g.Datadog != nil:
		return []string{apiKey, appKey}
	case g.NewRelic != nil:
		return []string{apiKey}
	}
	return []string{accessKeyID, secretAccessKey}
}

// credentialsOf reads what the gate's source is given, anew at every look:
// Secrets rotate. They go into requests and nowhere else.
func (d *driver) credentialsOf(ctx context.Context, g *MetricGate) (credentials, error) {
	if !g.cloud() {
		token, err := d.token(ctx, g.Token)
		return credentials{tokenKey: token}, err
	}
	secret, err := d.kube.CoreV1().Secrets(d.namespace).Get(ctx, g.secretName(), metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cloudSecretTitle, err)
	}
	return pick(secret.Data, g.secretKeys())
}

// pick takes the keys out of a Secret that must have them, and those that may be there.
func pick(data map[string][]byte, needed []string) (credentials, error) {
	keys := credentials{sessionTokenKey: string(data[sessionTokenKey])}
	var missing []error
	for _, key := range needed {
		if keys[key] = string(data[key]); keys[key] == "" {
			missing = append(missing, fmt.Errorf("%s: the Secret has no %q", cloudSecretTitle, key))
		}
	}
	return keys, errors.Join(missing...)
}
