package registry

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
)

// authenticated lets requests through that may do what they ask for.
func (r *Registry) authenticated(next http.Handler) http.Handler {
	if len(r.config.Users) == 0 {
		return next
	}
	// Fixed lengths make the comparison's time say nothing.
	users := make(map[string][sha256.Size]byte, len(r.config.Users))
	for name, password := range r.config.Users {
		users[name] = sha256.Sum256([]byte(password))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		name, password, given := req.BasicAuth()
		want, known := users[name]
		got := sha256.Sum256([]byte(password))
		same := subtle.ConstantTimeCompare(want[:], got[:]) == 1
		switch {
		case given && known && same:
		// The bare /v2/ is where clients ask whether to log in: they must be told so.
		case !given && r.config.AnonymousPull && (req.Method == http.MethodGet || req.Method == http.MethodHead) && req.URL.Path != "/v2/":
		default:
			w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
			w.Header().Set("WWW-Authenticate", `Basic realm="tidegate registry"`)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"errors":[{"code":"UNAUTHORIZED","message":"a user and password of this registry are needed"}]}` + "\n"))
			return
		}
		next.ServeHTTP(w, req)
	})
}
