package analysis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// costLimit bounds the evaluation of one expression, in CEL's units of work.
const costLimit = 1_000_000

// web asks any URL that answers with JSON; queries are CEL expressions over the
// variable response.
type web struct {
	client  *http.Client
	address string
}

// NewHTTP makes a source of the JSON that address answers GET with. token as
// for NewPrometheus.
func NewHTTP(address, token string) (Source, error) {
	c, err := client(address, token)
	if err != nil {
		return nil, err
	}
	return &web{c, address}, nil
}

// CheckExpression tells what is wrong with a query for NewHTTP.
func CheckExpression(query string) error {
	_, err := program(query)
	return err
}

func program(query string) (cel.Program, error) {
	environment, err := cel.NewEnv(cel.Variable("response", cel.DynType))
	if err != nil {
		return nil, fmt.Errorf("prepare CEL: %w", err)
	}
	ast, issues := environment.Compile(query)
	if issues.Err() != nil {
		return nil, fmt.Errorf("expression %q: %w", query, issues.Err())
	}
	return environment.Program(ast, cel.CostLimit(costLimit))
}

// Query implements Source. A field that the answer lacks, or null, is no data.
func (w *web) Query(ctx context.Context, query string) (float64, error) {
	compiled, err := program(query)
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.address, http.NoBody)
	if err != nil {
		return 0, fmt.Errorf("asking %s: %w", w.address, err)
	}
	request.Header.Set("Accept", "application/json")
	answer, err := w.client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("asking for a metric: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s answers %s", w.address, answer.Status)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, fmt.Errorf("reading the answer of %s: %w", w.address, err)
	}
	var decoded any
	if err := json.Unmarshal(body, &decoded); err != nil {
		return 0, fmt.Errorf("the answer of %s is not JSON: %w", w.address, err)
	}
	value, _, err := compiled.ContextEval(ctx, map[string]any{"response": decoded})
	if err != nil {
		if missing(err) {
			return 0, ErrNoData
		}
		return 0, fmt.Errorf("expression %q: %w", query, err)
	}
	switch number := value.(type) {
	case types.Double:
		if math.IsNaN(float64(number)) || math.IsInf(float64(number), 0) {
			return 0, ErrNoData
		}
		return float64(number), nil
	case types.Int:
		return float64(number), nil
	case types.Uint:
		return float64(number), nil
	case types.Null:
		return 0, ErrNoData
	}
	return 0, fmt.Errorf("expression %q gives a %s; it must give a number", query, value.Type())
}

// missing tells whether an evaluation failed because a field is not there.
func missing(err error) bool {
	var e *types.Err
	if !errors.As(err, &e) {
		return false
	}
	text := e.Error()
	return strings.HasPrefix(text, "no such key") || strings.HasPrefix(text, "index out of bounds")
}
