package analysis

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// prometheus asks a server with Prometheus's HTTP API.
type prometheus struct{ api promv1.API }

// NewPrometheus makes a source of the Prometheus server at address. token, if
// not empty, is sent as a bearer token, to that host only.
func NewPrometheus(address, token string) (Source, error) {
	c, err := client(address, token)
	if err != nil {
		return nil, err
	}
	asked, err := api.NewClient(api.Config{Address: address, Client: c})
	if err != nil {
		return nil, fmt.Errorf("prometheus at %s: %w", address, err)
	}
	return &prometheus{promv1.NewAPI(asked)}, nil
}

// Query implements Source. The query must give a scalar or exactly one series:
// which of several is meant is not guessed.
func (p *prometheus) Query(ctx context.Context, query string) (float64, error) {
	value, _, err := p.api.Query(ctx, query, time.Time{}, promv1.WithTimeout(QueryTimeout))
	if err != nil {
		return 0, fmt.Errorf("asking Prometheus: %w", err)
	}
	var number float64
	switch v := value.(type) {
	case *model.Scalar:
		number = float64(v.Value)
	case model.Vector:
		switch len(v) {
		case 0:
			return 0, ErrNoData
		case 1:
			number = float64(v[0].Value)
		default:
			return 0, fmt.Errorf("the query gives %d series; sum them, or select one", len(v))
		}
	default:
		return 0, fmt.Errorf("the query gives a %s; it must give a number", value.Type())
	}
	// A rate over nothing, 0/0, is how Prometheus says that there was no traffic.
	if math.IsNaN(number) || math.IsInf(number, 0) {
		return 0, ErrNoData
	}
	return number, nil
}
