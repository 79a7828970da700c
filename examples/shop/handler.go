package main

import (
	"encoding/json"
	"net/http"
	"slices"
)

// version is what `GET /` and `GET /version` report. The demo edits this line.
const version = "v1"

// item is one thing on sale; prices are in cents.
type item struct {
	Name  string `json:"name"`
	Price int    `json:"price"`
}

var catalogue = []item{
	{Name: "anchor", Price: 4900},
	{Name: "compass", Price: 2500},
	{Name: "rope", Price: 900},
}

// total is the price of the named items; unknown names are reported.
func total(names []string) (sum int, unknown []string) {
	for _, name := range names {
		i := slices.IndexFunc(catalogue, func(it item) bool { return it.Name == name })
		if i < 0 {
			unknown = append(unknown, name)
			continue
		}
		sum += catalogue[i].Price
	}
	return sum, unknown
}

func newHandler(version, greeting string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK, map[string]any{"version": version, "greeting": greeting, "items": catalogue})
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK, map[string]string{"version": version})
	})
	mux.HandleFunc("GET /total", func(w http.ResponseWriter, r *http.Request) {
		sum, unknown := total(r.URL.Query()["item"])
		if len(unknown) > 0 {
			respond(w, http.StatusNotFound, map[string]any{"unknown": unknown})
			return
		}
		respond(w, http.StatusOK, map[string]int{"total": sum})
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return mux
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client went away: nobody is left to tell
}
