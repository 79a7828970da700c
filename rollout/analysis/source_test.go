package analysis

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// answering starts a server that gives body to every request and tells the
// Authorization headers it saw.
func answering(t *testing.T, status int, body string) (address string, seen *[]string) {
	t.Helper()
	seen = &[]string{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*seen = append(*seen, r.Header.Get("Authorization"))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL, seen
}

func TestWhatAnHTTPAnswerMeans(t *testing.T) {
	for _, c := range []struct {
		name, body, query string
		status            int
		want              float64
		noData            bool
		message           string
	}{
		{name: "a number", body: `{"errors": 3}`, query: "response.errors", want: 3},
		{name: "computed", body: `{"a": 1, "b": 4}`, query: "response.a / response.b", want: 0.25},
		{name: "absent", body: `{}`, query: "response.errors", noData: true},
		{name: "null", body: `{"errors": null}`, query: "response.errors", noData: true},
		{name: "no element", body: `{"list": []}`, query: "response.list[0]", noData: true},
		{name: "nothing over nothing", body: `{"a": 0.0}`, query: "response.a / response.a", noData: true},
		{name: "text", body: `{"a": "many"}`, query: "response.a", message: "must give a number"},
		{name: "not JSON", body: `<html>`, query: "response.a", message: "is not JSON"},
		{name: "an error", status: 503, body: `{}`, query: "response.a", message: "503"},
		{name: "endless", body: `{"a": "` + strings.Repeat("x", maxAnswer) + `"}`, query: "response.b", message: "larger than"},
		{name: "wrong expression", body: `{}`, query: "response.", message: "Syntax error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.status == 0 {
				c.status = http.StatusOK
			}
			address, seen := answering(t, c.status, c.body)
			source, err := NewHTTP(address, "s3cret")
			require.NoError(t, err)
			got, err := source.Query(t.Context(), c.query)
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
				require.Equal(t, []string{"Bearer s3cret"}, *seen)
			}
		})
	}
}

func TestWhatAPrometheusAnswerMeans(t *testing.T) {
	vector := func(values ...string) string {
		var series []string
		for i, v := range values {
			series = append(series, fmt.Sprintf(`{"metric":{"i":"%d"},"value":[1,"%s"]}`, i, v))
		}
		return `{"status":"success","data":{"resultType":"vector","result":[` + strings.Join(series, ",") + `]}}`
	}
	for _, c := range []struct {
		name, body string
		want       float64
		noData     bool
		message    string
	}{
		{name: "one series", body: vector("0.5"), want: 0.5},
		{name: "a scalar", body: `{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}`, want: 7},
		{name: "no series", body: vector(), noData: true},
		{name: "no traffic", body: vector("NaN"), noData: true},
		{name: "several", body: vector("1", "2"), message: "2 series"},
		{name: "an error", body: `{"status":"error","errorType":"bad_data","error":"parse error"}`, message: "parse error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			address, _ := answering(t, http.StatusOK, c.body)
			source, err := NewPrometheus(address, "")
			require.NoError(t, err)
			got, err := source.Query(t.Context(), "up")
			switch {
			case c.noData:
				require.ErrorIs(t, err, ErrNoData)
			case c.message != "":
				require.ErrorContains(t, err, c.message)
				require.NotErrorIs(t, err, ErrNoData)
			default:
				require.NoError(t, err)
				require.InDelta(t, c.want, got, 1e-9)
			}
		})
	}
}

func TestTokenStaysWithItsHost(t *testing.T) {
	other, seen := answering(t, http.StatusOK, `{"a": 1}`)
	redirecting := httptest.NewServer(http.RedirectHandler(other, http.StatusTemporaryRedirect))
	t.Cleanup(redirecting.Close)
	source, err := NewHTTP(redirecting.URL, "s3cret")
	require.NoError(t, err)
	_, err = source.Query(t.Context(), "response.a")
	require.ErrorContains(t, err, "another host")
	require.Empty(t, *seen)
}

func TestAddressesThatAreRefused(t *testing.T) {
	for _, address := range []string{"", "prometheus:9090", "file:///etc/passwd", "http://user:word@host"} {
		_, err := NewHTTP(address, "")
		require.Error(t, err, address)
		require.NotContains(t, err.Error(), "word", address)
		_, err = NewPrometheus(address, "")
		require.Error(t, err, address)
	}
}
