package pipeline

import (
	"fmt"
	"time"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
)

// The services that a metric may come from, and where they are. A test of the
// deploy stage holds these to package rollout/analysis.
var (
	datadogSites    = []string{"datadoghq.com", "us3.datadoghq.com", "us5.datadoghq.com", "datadoghq.eu", "ap1.datadoghq.com", "ap2.datadoghq.com", "ddog-gov.com"}
	newRelicRegions = []string{"us", "eu"}
	awsRegion       = lazyregexp.New(`^[a-z]{2}(-[a-z]{2,20}){1,3}-[0-9]{1,2}$`)
)

// minCloudInterval is the least time between looks at a service.
const minCloudInterval = time.Minute

func sourceSecret(doc string) field {
	return field{key: "secret", shape: text{mode: valueText, check: checkLabel}, required: true, doc: doc}
}

var datadogShape = object{
	name: "datadog", doc: "A Datadog organisation. Queries are metric queries; $podlist stands for the pods' names in IN (…).",
	fields: []field{
		{key: "site", shape: text{choices: datadogSites}, doc: "Where it is kept; datadoghq.com when not set."},
		sourceSecret("The Secret in the environment's namespace that has api-key and app-key."),
	},
}

var newRelicShape = object{
	name: "newrelic", doc: "A New Relic account. Queries are NRQL without SINCE and UNTIL; $pods stands for the pods' names in RLIKE.",
	fields: []field{
		{key: "account", shape: number{1, 1 << 40}, required: true, doc: "The account's number."},
		{key: "region", shape: text{choices: newRelicRegions}, doc: "Where it is kept; us when not set."},
		sourceSecret("The Secret in the environment's namespace that has api-key, a user key."),
	},
}

var cloudWatchShape = object{
	name: "cloudwatch", doc: "CloudWatch in one AWS region. Queries are expressions, such as Metrics Insights.",
	fields: []field{
		{key: "region", shape: text{mode: valueText, check: checkAWSRegion, pattern: `^[a-z]{2}(-[a-z]{2,20}){1,3}-[0-9]{1,2}$`}, required: true, doc: "The region, such as eu-central-1."},
		sourceSecret("The Secret in the environment's namespace that has access-key-id, secret-access-key and, if they expire, session-token."),
	},
}

func checkAWSRegion(value string) (Rule, string, string) {
	if !awsRegion().MatchString(value) {
		return RuleValue, fmt.Sprintf("%q is no AWS region", clip(value)), "write one such as eu-central-1"
	}
	return "", "", ""
}

// checkSource checks what a metric's source asks of its other keys.
func (d *decoder) checkSource(path string, m *MetricSpec) {
	source := m.source()
	switch source {
	case "":
		d.add(d.at(path), RuleRequired, "name one of prometheus, http, datadog, newrelic and cloudwatch", "%s needs exactly one source", path)
		return
	case "prometheus", "http":
		return
	}
	if d.has(path + ".token") {
		d.add(d.keyAt(path+".token"), RuleUnreachable, "remove it; secret names the keys", "%s.token has no effect with %s", path, source)
	}
	if m.Interval > 0 && m.Interval < minCloudInterval {
		d.add(d.at(path+".interval"), RuleValue, "write 1m or more", "%s.interval is too short: %s is asked once a minute at most", path, source)
	}
	if source == "cloudwatch" && m.Query == "" {
		d.add(d.at(path), RuleKind, "write query with min or max", "%s cannot be compared: CloudWatch knows no pods", path)
	}
}
