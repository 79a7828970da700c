package analysis

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
)

// DatadogSites are the hosts that may be asked, from
// https://docs.datadoghq.com/getting_started/site/; keys are sent to no other.
var DatadogSites = []string{"datadoghq.com", "us3.datadoghq.com", "us5.datadoghq.com", "datadoghq.eu", "ap1.datadoghq.com", "ap2.datadoghq.com", "ddog-gov.com"}

// datadog asks for one number by the scalar query of API version 2:
// https://docs.datadoghq.com/api/latest/metrics/#query-scalar-data-across-multiple-products.
type datadog struct {
	*service
	look        Look
	apiKey, app string
}

// NewDatadog makes a source of a Datadog site ("" means datadoghq.com). Queries
// are metric queries such as sum:http.requests{pod_name IN ($podlist)}.as_count().
func NewDatadog(site, apiKey, appKey string, look Look) (Source, error) {
	if site == "" {
		site = DatadogSites[0]
	}
	if !slices.Contains(DatadogSites, site) {
		return nil, fmt.Errorf("datadog site %q: use one of %s", site, strings.Join(DatadogSites, ", "))
	}
	return &datadog{newService("Datadog", "https://api."+site+"/api/v2/query/scalar"), look, apiKey, appKey}, nil
}

// Query implements Source.
func (d *datadog) Query(ctx context.Context, query string) (float64, error) {
	if d.apiKey == "" || d.app == "" {
		return 0, fmt.Errorf("asking Datadog: %w", errNoKey)
	}
	aggregator := "avg"
	if d.look.Sum {
		aggregator = "sum"
	}
	from, until := d.look.window()
	body, err := json.Marshal(map[string]any{"data": map[string]any{"type": "scalar_request", "attributes": map[string]any{
		"from": from.UnixMilli(), "to": until.UnixMilli(),
		"queries":  []any{map[string]any{"data_source": "metrics", "query": query, "name": "q", "aggregator": aggregator}},
		"formulas": []any{map[string]any{"formula": "q"}},
	}}})
	if err != nil {
		return 0, fmt.Errorf("asking Datadog: %w", err)
	}
	content, err := d.post(ctx, body, func(r *http.Request) {
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json")
		r.Header.Set("DD-API-KEY", d.apiKey)
		r.Header.Set("DD-APPLICATION-KEY", d.app)
	}, datadogError)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Data struct {
			Attributes struct {
				Columns []struct {
					Type   string            `json:"type"`
					Values []json.RawMessage `json:"values"`
				} `json:"columns"`
			} `json:"attributes"`
		} `json:"data"`
		Errors json.RawMessage `json:"errors"`
	}
	if err := json.Unmarshal(content, &answer); err != nil {
		return 0, fmt.Errorf("the answer of Datadog is not as documented: %w", err)
	}
	if said := datadogError(content); said != "" {
		return 0, fmt.Errorf("the query was not answered by Datadog%s", because(said))
	}
	var numbers []json.RawMessage
	for _, column := range answer.Data.Attributes.Columns {
		if column.Type == "number" {
			numbers = append(numbers, column.Values...)
		}
	}
	return single(numbers)
}

// datadogError finds what an answer says went wrong: "errors" is a text or a
// list of texts.
func datadogError(content []byte) string {
	var said struct {
		Errors any `json:"errors"`
	}
	if json.Unmarshal(content, &said) != nil {
		return ""
	}
	switch errors := said.Errors.(type) {
	case string:
		return errors
	case []any:
		var texts []string
		for _, e := range errors {
			texts = append(texts, fmt.Sprint(e))
		}
		return strings.Join(texts, "; ")
	}
	return ""
}

// single is the one number among what a query gave; null is no data.
func single(values []json.RawMessage) (float64, error) {
	var number *float64
	switch len(values) {
	case 0:
		return 0, ErrNoData
	case 1:
		if err := json.Unmarshal(values[0], &number); err != nil {
			return 0, fmt.Errorf("the query does not give a number: %w", err)
		}
	default:
		return 0, errSeveral(len(values))
	}
	if number == nil || math.IsNaN(*number) || math.IsInf(*number, 0) {
		return 0, ErrNoData
	}
	return *number, nil
}
