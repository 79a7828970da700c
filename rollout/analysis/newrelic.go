package analysis

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
)

// newRelicHosts are NerdGraph's endpoints by region, from
// https://docs.newrelic.com/docs/apis/nerdgraph/get-started/introduction-new-relic-nerdgraph/.
var newRelicHosts = map[string]string{"us": "https://api.newrelic.com/graphql", "eu": "https://api.eu.newrelic.com/graphql"}

// newRelic asks for one number by NRQL through NerdGraph.
type newRelic struct {
	*service
	look    Look
	account int64
	apiKey  string
}

// NewNewRelic makes a source of a New Relic account in region "us" ("" means
// that) or "eu". Queries are NRQL without a time: SELECT count(*) FROM
// Transaction WHERE podName RLIKE '$pods'.
func NewNewRelic(region string, account int64, apiKey string, look Look) (Source, error) {
	if region == "" {
		region = "us"
	}
	host, ok := newRelicHosts[region]
	if !ok {
		return nil, fmt.Errorf("new relic region %q: use us or eu", region)
	}
	if account <= 0 {
		return nil, fmt.Errorf("new relic account %d: give its number", account)
	}
	return &newRelic{newService("New Relic", host), look, account, apiKey}, nil
}

var timed = lazyregexp.New(`(?i)\b(since|until|timeseries|facet|compare\s+with)\b`)

// CheckNRQL tells what is wrong with a query for NewNewRelic: what it covers is
// the look's to say, and it must give one number.
func CheckNRQL(query string) error {
	if !strings.HasPrefix(strings.ToLower(strings.TrimSpace(query)), "select ") {
		return fmt.Errorf("NRQL %q: it must begin with SELECT", query)
	}
	if word := timed().FindString(query); word != "" {
		return fmt.Errorf("NRQL %q: leave %s out; a look covers its interval, and must give one number", query, strings.ToUpper(word))
	}
	return nil
}

const nerdGraph = `query($account: Int!, $nrql: Nrql!) { actor { account(id: $account) { nrql(query: $nrql, timeout: 8) { results } } } }`

// Query implements Source.
func (n *newRelic) Query(ctx context.Context, query string) (float64, error) {
	if n.apiKey == "" {
		return 0, fmt.Errorf("asking New Relic: %w", errNoKey)
	}
	if err := CheckNRQL(query); err != nil {
		return 0, err
	}
	from, until := n.look.window()
	body, err := json.Marshal(map[string]any{"query": nerdGraph, "variables": map[string]any{"account": n.account,
		"nrql": fmt.Sprintf("%s SINCE %d UNTIL %d", strings.TrimSpace(query), from.UnixMilli(), until.UnixMilli())}})
	if err != nil {
		return 0, fmt.Errorf("asking New Relic: %w", err)
	}
	content, err := n.post(ctx, body, func(r *http.Request) {
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("API-Key", n.apiKey)
	}, newRelicError)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Data struct {
			Actor struct {
				Account struct {
					NRQL struct {
						Results []map[string]json.RawMessage `json:"results"`
					} `json:"nrql"`
				} `json:"account"`
			} `json:"actor"`
		} `json:"data"`
	}
	if said := newRelicError(content); said != "" { // GraphQL tells errors with 200
		return 0, fmt.Errorf("the query was not answered by New Relic%s", because(said))
	}
	if err := json.Unmarshal(content, &answer); err != nil {
		return 0, fmt.Errorf("the answer of New Relic is not as documented: %w", err)
	}
	var numbers []json.RawMessage
	for _, row := range answer.Data.Actor.Account.NRQL.Results {
		for _, value := range row {
			// A percentile is a number in an object: {"percentile.duration": {"95": 0.3}}.
			var within map[string]json.RawMessage
			if json.Unmarshal(value, &within) == nil && within != nil {
				for _, value := range within {
					numbers = append(numbers, value)
				}
				continue
			}
			numbers = append(numbers, value)
		}
	}
	return single(numbers)
}

func newRelicError(content []byte) string {
	var said struct {
		Errors []struct {
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(content, &said) != nil {
		return ""
	}
	var texts []string
	for _, e := range said.Errors {
		texts = append(texts, e.Message)
	}
	return strings.Join(texts, "; ")
}
