package analysis

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var looked = Look{Interval: time.Minute, Clock: func() time.Time { return time.Date(2026, 1, 1, 12, 2, 30, 0, time.UTC) }}

// asked is a request that a service got.
type request struct {
	header http.Header
	body   []byte
}

// standIn answers as a service does, one answer after the other; the real ones
// cannot be reached from tests. It returns what it was asked.
func standIn(t *testing.T, s *service, answers ...func(http.ResponseWriter)) *[]request {
	t.Helper()
	seen := &[]request{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		*seen = append(*seen, request{r.Header, body})
		answers[min(len(*seen), len(answers))-1](w)
	}))
	t.Cleanup(server.Close)
	s.address = server.URL
	s.wait = func(context.Context, time.Duration) error { return nil }
	return seen
}

func says(status int, body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

const datadogScalar = `{"data":{"type":"scalar_response","id":"0","attributes":{"columns":[%s]}}}`

func column(values string) string {
	return fmt.Sprintf(datadogScalar, `{"name":"q","type":"number","values":[`+values+`],"meta":{"unit":null}}`)
}

func nrql(results string) string {
	return `{"data":{"actor":{"account":{"nrql":{"results":[` + results + `]}}}}}`
}

func metricData(members string) string {
	return `<GetMetricDataResponse xmlns="http://monitoring.amazonaws.com/doc/2010-08-01/"><GetMetricDataResult><Messages/><MetricDataResults>` + members +
		`</MetricDataResults></GetMetricDataResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetMetricDataResponse>`
}

func series(status, values string) string {
	return `<member><Id>q</Id><Label>q</Label><Timestamps><member>2026-01-01T12:00:00Z</member></Timestamps><Values>` + values + `</Values><StatusCode>` + status + `</StatusCode></member>`
}

func TestWhatACloudsAnswerMeans(t *testing.T) {
	datadogSource := func() (Source, *service) {
		s, err := NewDatadog("datadoghq.eu", "s3cret-api", "s3cret-app", looked)
		require.NoError(t, err)
		return s, s.(*datadog).service
	}
	newRelicSource := func() (Source, *service) {
		s, err := NewNewRelic("eu", 42, "s3cret-api", looked)
		require.NoError(t, err)
		return s, s.(*newRelic).service
	}
	cloudWatchSource := func() (Source, *service) {
		s, err := NewCloudWatch("eu-central-1", AWSKeys{ID: "AKID", Secret: "s3cret", Session: "s3cret-session"}, looked)
		require.NoError(t, err)
		return s, s.(*cloudWatch).service
	}
	for _, c := range []struct {
		name    string
		source  func() (Source, *service)
		answers []func(http.ResponseWriter)
		want    float64
		noData  bool
		message string
		asked   int // 0 means once
	}{
		{name: "Datadog: a number", source: datadogSource, answers: []func(http.ResponseWriter){says(200, column("0.5"))}, want: 0.5},
		{name: "Datadog: beside a group", source: datadogSource, answers: []func(http.ResponseWriter){says(200, fmt.Sprintf(datadogScalar, `{"name":"pod","type":"group","values":[["a"]]},{"name":"q","type":"number","values":[3]}`))}, want: 3},
		{name: "Datadog: null", source: datadogSource, answers: []func(http.ResponseWriter){says(200, column("null"))}, noData: true},
		{name: "Datadog: nothing", source: datadogSource, answers: []func(http.ResponseWriter){says(200, column(""))}, noData: true},
		{name: "Datadog: several", source: datadogSource, answers: []func(http.ResponseWriter){says(200, column("1,2"))}, message: "2 numbers"},
		{name: "Datadog: wrong keys", source: datadogSource, answers: []func(http.ResponseWriter){says(403, `{"errors":["Forbidden"]}`)}, message: "403 Forbidden: Forbidden"},
		{name: "Datadog: wrong query", source: datadogSource, answers: []func(http.ResponseWriter){says(400, `{"errors":["Error parsing query"]}`)}, message: "Error parsing query"},
		{name: "Datadog: an error with 200", source: datadogSource, answers: []func(http.ResponseWriter){says(200, `{"errors":"timeout"}`)}, message: "timeout"},
		{name: "Datadog: not JSON", source: datadogSource, answers: []func(http.ResponseWriter){says(200, `<html>`)}, message: "not as documented"},
		{name: "Datadog: too many requests, then a number", source: datadogSource, answers: []func(http.ResponseWriter){func(w http.ResponseWriter) {
			w.Header().Set("X-RateLimit-Reset", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}, says(200, column("1"))}, want: 1, asked: 2},
		{name: "Datadog: in trouble", source: datadogSource, answers: []func(http.ResponseWriter){says(503, "")}, message: "503", asked: 3},
		{name: "Datadog: for minutes too many requests", source: datadogSource, answers: []func(http.ResponseWriter){func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "300")
			w.WriteHeader(http.StatusTooManyRequests)
		}}, message: "429"},
		{name: "Datadog: endless", source: datadogSource, answers: []func(http.ResponseWriter){says(200, strings.Repeat(" ", maxAnswer+1))}, message: "larger than"},
		{name: "New Relic: a count", source: newRelicSource, answers: []func(http.ResponseWriter){says(200, nrql(`{"count":123}`))}, want: 123},
		{name: "New Relic: a percentile", source: newRelicSource, answers: []func(http.ResponseWriter){says(200, nrql(`{"percentile.duration":{"95":0.25}}`))}, want: 0.25},
		{name: "New Relic: null", source: newRelicSource, answers: []func(http.ResponseWriter){says(200, nrql(`{"average.duration":null}`))}, noData: true},
		{name: "New Relic: nothing", source: newRelicSource, answers: []func(http.ResponseWriter){says(200, nrql(``))}, noData: true},
		{name: "New Relic: two columns", source: newRelicSource, answers: []func(http.ResponseWriter){says(200, nrql(`{"count":1,"sum":2}`))}, message: "2 numbers"},
		{name: "New Relic: a text", source: newRelicSource, answers: []func(http.ResponseWriter){says(200, nrql(`{"latest.name":"x"}`))}, message: "does not give a number"},
		{name: "New Relic: an error with 200", source: newRelicSource, answers: []func(http.ResponseWriter){says(200, `{"data":null,"errors":[{"message":"NRQL Syntax Error"}]}`)}, message: "NRQL Syntax Error"},
		{name: "New Relic: a wrong key", source: newRelicSource, answers: []func(http.ResponseWriter){says(401, `{"errors":[{"message":"Invalid credentials provided."}]}`)}, message: "Invalid credentials"},
		{name: "CloudWatch: a number", source: cloudWatchSource, answers: []func(http.ResponseWriter){says(200, metricData(series("Complete", "<member>0.25</member>")))}, want: 0.25},
		{name: "CloudWatch: the newest minute", source: cloudWatchSource, answers: []func(http.ResponseWriter){says(200, metricData(series("PartialData", "<member>1.0E-2</member><member>7</member>")))}, want: 0.01},
		{name: "CloudWatch: no value", source: cloudWatchSource, answers: []func(http.ResponseWriter){says(200, metricData(series("Complete", "")))}, noData: true},
		{name: "CloudWatch: no series", source: cloudWatchSource, answers: []func(http.ResponseWriter){says(200, metricData(""))}, noData: true},
		{name: "CloudWatch: several", source: cloudWatchSource, answers: []func(http.ResponseWriter){says(200, metricData(series("Complete", "")+series("Complete", "")))}, message: "2 numbers"},
		{name: "CloudWatch: in trouble itself", source: cloudWatchSource, answers: []func(http.ResponseWriter){says(200, metricData(series("InternalError", "")))}, message: "InternalError"},
		{name: "CloudWatch: not allowed", source: cloudWatchSource, answers: []func(http.ResponseWriter){says(403, `<ErrorResponse xmlns="http://monitoring.amazonaws.com/doc/2010-08-01/"><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>User is not authorized to perform: cloudwatch:GetMetricData</Message></Error></ErrorResponse>`)}, message: "AccessDenied: User is not authorized"},
		{name: "CloudWatch: not XML", source: cloudWatchSource, answers: []func(http.ResponseWriter){says(200, `{}`)}, message: "not as documented"},
	} {
		t.Run(c.name, func(t *testing.T) {
			source, s := c.source()
			seen := standIn(t, s, c.answers...)
			ctx, cancel := context.WithTimeout(t.Context(), QueryTimeout)
			defer cancel()
			got, err := source.Query(ctx, "SELECT count(*) FROM Transaction")
			switch {
			case c.noData:
				require.ErrorIs(t, err, ErrNoData)
			case c.message != "":
				require.ErrorContains(t, err, c.message)
				require.NotErrorIs(t, err, ErrNoData)
				require.NotContains(t, err.Error(), "s3cret")
			default:
				require.NoError(t, err)
				require.InDelta(t, c.want, got, 1e-9)
			}
			require.Len(t, *seen, max(c.asked, 1))
		})
	}
}

// What is asked is as the services document it, and covers the minute that
// ended a minute ago.
func TestWhatACloudIsAsked(t *testing.T) {
	sum := looked
	sum.Sum = true
	d, err := NewDatadog("", "api", "app", sum)
	require.NoError(t, err)
	require.Equal(t, "https://api.datadoghq.com/api/v2/query/scalar", d.(*datadog).address)
	seen := standIn(t, d.(*datadog).service, says(200, column("1")))
	_, err = d.Query(t.Context(), `sum:requests{pod_name IN (a,b)}.as_count()`)
	require.NoError(t, err)
	require.Equal(t, "api", (*seen)[0].header.Get("DD-API-KEY"))
	require.Equal(t, "app", (*seen)[0].header.Get("DD-APPLICATION-KEY"))
	require.JSONEq(t, `{"data":{"type":"scalar_request","attributes":{"from":1767268830000,"to":1767268890000,
		"queries":[{"data_source":"metrics","name":"q","aggregator":"sum","query":"sum:requests{pod_name IN (a,b)}.as_count()"}],"formulas":[{"formula":"q"}]}}}`, string((*seen)[0].body))

	n, err := NewNewRelic("", 42, "key", looked)
	require.NoError(t, err)
	require.Equal(t, "https://api.newrelic.com/graphql", n.(*newRelic).address)
	seen = standIn(t, n.(*newRelic).service, says(200, nrql(`{"count":1}`)))
	_, err = n.Query(t.Context(), "SELECT count(*) FROM Transaction WHERE podName RLIKE 'a|b'")
	require.NoError(t, err)
	require.Equal(t, "key", (*seen)[0].header.Get("API-Key"))
	var asked struct {
		Query     string
		Variables struct {
			Account int64
			NRQL    string
		}
	}
	require.NoError(t, json.Unmarshal((*seen)[0].body, &asked))
	require.EqualValues(t, 42, asked.Variables.Account)
	require.Equal(t, "SELECT count(*) FROM Transaction WHERE podName RLIKE 'a|b' SINCE 1767268830000 UNTIL 1767268890000", asked.Variables.NRQL)

	w, err := NewCloudWatch("cn-north-1", AWSKeys{ID: "AKID", Secret: "secret", Session: "session"}, looked)
	require.NoError(t, err)
	require.Equal(t, "https://monitoring.cn-north-1.amazonaws.com.cn/", w.(*cloudWatch).address)
	seen = standIn(t, w.(*cloudWatch).service, says(200, metricData(series("Complete", "<member>1</member>"))))
	_, err = w.Query(t.Context(), `SELECT AVG(Latency) FROM "AWS/ELB"`)
	require.NoError(t, err)
	form, err := url.ParseQuery(string((*seen)[0].body))
	require.NoError(t, err)
	require.Equal(t, "GetMetricData", form.Get("Action"))
	require.Equal(t, `SELECT AVG(Latency) FROM "AWS/ELB"`, form.Get("MetricDataQueries.member.1.Expression"))
	require.Equal(t, "2026-01-01T12:00:00Z", form.Get("StartTime"))
	require.Equal(t, "2026-01-01T12:01:00Z", form.Get("EndTime"))
	require.Equal(t, "session", (*seen)[0].header.Get("X-Amz-Security-Token"))
	require.Regexp(t, `^AWS4-HMAC-SHA256 Credential=AKID/20260101/cn-north-1/monitoring/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature=[0-9a-f]{64}$`,
		(*seen)[0].header.Get("Authorization"))
}

// Keys follow no redirect.
func TestCloudKeysStayWithTheirHost(t *testing.T) {
	other, seen := answering(t, http.StatusOK, column("1"))
	d, err := NewDatadog("", "s3cret", "s3cret", looked)
	require.NoError(t, err)
	standIn(t, d.(*datadog).service, func(w http.ResponseWriter) {
		w.Header().Set("Location", other)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	_, err = d.Query(t.Context(), "q")
	require.ErrorContains(t, err, "307")
	require.Empty(t, *seen)
}

func TestCloudsThatAreRefused(t *testing.T) {
	_, err := NewDatadog("evil.example.com", "k", "k", looked)
	require.ErrorContains(t, err, "use one of datadoghq.com")
	_, err = NewNewRelic("mars", 1, "k", looked)
	require.ErrorContains(t, err, "use us or eu")
	_, err = NewNewRelic("", 0, "k", looked)
	require.Error(t, err)
	for _, region := range []string{"", "evil.example.com/", "eu-central-1.evil.com", "EU-CENTRAL-1"} {
		_, err = NewCloudWatch(region, AWSKeys{ID: "k", Secret: "k"}, looked)
		require.Error(t, err, region)
	}
	for _, query := range []string{"", "DELETE x", "SELECT count(*) FROM T SINCE 1 hour ago", "SELECT count(*) FROM T FACET podName", "select x from T timeseries", "SELECT x FROM T COMPARE  WITH 1 day ago"} {
		require.Error(t, CheckNRQL(query), query)
	}
	require.NoError(t, CheckNRQL("SELECT percentage(count(*), WHERE error IS true) FROM Transaction WHERE podName RLIKE '$pods'"))
	d, err := NewDatadog("", "", "app", looked)
	require.NoError(t, err)
	_, err = d.Query(t.Context(), "q")
	require.ErrorContains(t, err, "empty")
}

// Examples of AWS's own test suite for signatures.
func TestSignaturesAreAWSs(t *testing.T) {
	keys := AWSKeys{ID: "AKIDEXAMPLE", Secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
	now := time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)
	for _, c := range []struct{ method, kind, body, signature string }{
		{http.MethodGet, "", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
		{http.MethodPost, "", "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
		{http.MethodPost, "application/x-www-form-urlencoded", "Param1=value1", "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"},
	} {
		r := httptest.NewRequest(c.method, "https://example.amazonaws.com/", http.NoBody)
		if c.kind != "" {
			r.Header.Set("Content-Type", c.kind)
		}
		signAWS(r, []byte(c.body), keys, "us-east-1", "service", now)
		require.True(t, strings.HasSuffix(r.Header.Get("Authorization"), "Signature="+c.signature), r.Header.Get("Authorization"))
	}
}

func FuzzCloudAnswers(f *testing.F) {
	f.Add([]byte(column("1")))
	f.Add([]byte(nrql(`{"percentile.x":{"95":1}}`)))
	f.Add([]byte(metricData(series("Complete", "<member>1</member>"))))
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, explain := range []func([]byte) string{datadogError, newRelicError, awsError} {
			if text := because(explain(content)); len(text) > maxCloudError+10 {
				t.Fatal(len(text))
			}
		}
	})
}
