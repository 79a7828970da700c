package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
)

func get(t *testing.T, path string) (int, map[string]any) {
	t.Helper()
	recorder := httptest.NewRecorder()
	newHandler("test", "ahoy").ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
	body := map[string]any{}
	if recorder.Body.Len() > 0 {
		if err := json.Unmarshal(recorder.Body.Bytes(), &body); err != nil {
			t.Fatalf("GET %s: %v", path, err)
		}
	}
	return recorder.Code, body
}

func TestHome(t *testing.T) {
	code, body := get(t, "/")
	if code != http.StatusOK || body["version"] != "test" || body["greeting"] != "ahoy" {
		t.Fatalf("GET /: %d %v", code, body)
	}
}

func TestTotal(t *testing.T) {
	for _, test := range []struct {
		path string
		code int
		key  string
		want any
	}{
		{"/total?item=anchor&item=rope", http.StatusOK, "total", 5800.0},
		{"/total", http.StatusOK, "total", 0.0},
	} {
		code, body := get(t, test.path)
		if code != test.code || body[test.key] != test.want {
			t.Errorf("GET %s: %d %v, want %d %s=%v", test.path, code, body, test.code, test.key, test.want)
		}
	}
	if code, _ := get(t, "/total?item=kraken"); code != http.StatusNotFound {
		t.Errorf("an unknown item answered %d, want 404", code)
	}
}

func TestHealth(t *testing.T) {
	if code, _ := get(t, "/healthz"); code != http.StatusNoContent {
		t.Fatalf("GET /healthz: %d", code)
	}
}
