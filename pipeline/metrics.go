package pipeline

// DatadogSpec is a Datadog organisation as the source of a metric.
type DatadogSpec struct {
	// Site is where it is kept, such as datadoghq.eu; "" means datadoghq.com.
	Site string `json:"site,omitempty"`
	// Secret has the keys api-key and app-key, in the environment's namespace.
	Secret string `json:"secret"`
}

// NewRelicSpec is a New Relic account as the source of a metric.
type NewRelicSpec struct {
	Account int    `json:"account"`
	Region  string `json:"region,omitempty"` // us, which "" means, or eu
	// Secret has the key api-key.
	Secret string `json:"secret"`
}

// CloudWatchSpec is CloudWatch in one AWS region as the source of a metric.
type CloudWatchSpec struct {
	Region string `json:"region"`
	// Secret has the keys access-key-id and secret-access-key, and may have session-token.
	Secret string `json:"secret"`
}

// source names the key of the metric's source, "" when it has none or several.
func (m *MetricSpec) source() string {
	found := ""
	for _, source := range []struct {
		key string
		set bool
	}{{"prometheus", m.Prometheus != ""}, {"http", m.HTTP != ""}, {"datadog", m.Datadog != nil}, {"newrelic", m.NewRelic != nil}, {"cloudwatch", m.CloudWatch != nil}} {
		switch {
		case source.set && found != "":
			return ""
		case source.set:
			found = source.key
		}
	}
	return found
}

// clone shares nothing that a plan changes.
func (m *MetricSpec) clone() *MetricSpec {
	out := clonePointer(m)
	if out != nil {
		out.Token, out.Datadog = clonePointer(m.Token), clonePointer(m.Datadog)
		out.NewRelic, out.CloudWatch = clonePointer(m.NewRelic), clonePointer(m.CloudWatch)
	}
	return out
}
