package analysis

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
)

// AWSKeys are credentials of an AWS identity that may do
// cloudwatch:GetMetricData. Session is empty for those that do not expire.
type AWSKeys struct{ ID, Secret, Session string }

// cloudWatch asks for one number by GetMetricData, with the query protocol of
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html.
type cloudWatch struct {
	*service
	look   Look
	region string
	keys   AWSKeys
}

var awsRegion = lazyregexp.New(`^[a-z]{2}(-[a-z]{2,20}){1,3}-[0-9]{1,2}$`)

// NewCloudWatch makes a source of CloudWatch in an AWS region. Queries are
// expressions: Metrics Insights, such as SELECT AVG(TargetResponseTime) FROM
// SCHEMA("AWS/ApplicationELB", TargetGroup) WHERE TargetGroup = '…', or SEARCH
// with a function that makes one series of it. A look takes its newest minute.
func NewCloudWatch(region string, keys AWSKeys, look Look) (Source, error) {
	if !awsRegion().MatchString(region) {
		return nil, fmt.Errorf("AWS region %q: write one such as eu-central-1", region)
	}
	host := "monitoring." + region + ".amazonaws.com"
	if strings.HasPrefix(region, "cn-") {
		host += ".cn"
	}
	return &cloudWatch{newService("CloudWatch", "https://"+host+"/"), look, region, keys}, nil
}

// Query implements Source.
func (c *cloudWatch) Query(ctx context.Context, query string) (float64, error) {
	if c.keys.ID == "" || c.keys.Secret == "" {
		return 0, fmt.Errorf("asking CloudWatch: %w", errNoKey)
	}
	from, until := c.look.window()
	body := []byte(url.Values{
		"Action": {"GetMetricData"}, "Version": {"2010-08-01"},
		"StartTime": {from.UTC().Truncate(time.Minute).Format(time.RFC3339)}, "EndTime": {until.UTC().Truncate(time.Minute).Format(time.RFC3339)},
		"ScanBy":                                {"TimestampDescending"},
		"MetricDataQueries.member.1.Id":         {"q"},
		"MetricDataQueries.member.1.Expression": {query},
		"MetricDataQueries.member.1.Period":     {"60"},
		"MetricDataQueries.member.1.ReturnData": {"true"},
	}.Encode())
	content, err := c.post(ctx, body, func(r *http.Request) {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		now := time.Now
		if c.look.Clock != nil {
			now = c.look.Clock
		}
		signAWS(r, body, c.keys, c.region, "monitoring", now())
	}, awsError)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Results []struct {
			Status string   `xml:"StatusCode"`
			Values []string `xml:"Values>member"`
			Said   []string `xml:"Messages>member>Value"`
		} `xml:"GetMetricDataResult>MetricDataResults>member"`
	}
	if err := xml.Unmarshal(content, &answer); err != nil {
		return 0, fmt.Errorf("the answer of CloudWatch is not as documented: %w", err)
	}
	switch len(answer.Results) {
	case 0:
		return 0, ErrNoData
	case 1:
	default:
		return 0, errSeveral(len(answer.Results))
	}
	result := answer.Results[0]
	if result.Status == "InternalError" || result.Status == "Forbidden" {
		return 0, fmt.Errorf("the query was not answered by CloudWatch: %s%s", result.Status, because(strings.Join(result.Said, "; ")))
	}
	if len(result.Values) > 1 {
		result.Values = result.Values[:1] // the newest whole minute
	}
	var values []json.RawMessage
	for _, value := range result.Values {
		values = append(values, json.RawMessage(value))
	}
	return single(values)
}

// awsError finds code and message in an error of the query protocol.
func awsError(content []byte) string {
	var said struct {
		Code    string `xml:"Error>Code"`
		Message string `xml:"Error>Message"`
	}
	if xml.Unmarshal(content, &said) != nil || said.Code == "" {
		return ""
	}
	return said.Code + ": " + said.Message
}
