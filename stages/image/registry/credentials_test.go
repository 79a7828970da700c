package registry

import (
	"context"
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
)

func TestCredentialsOfTheDockerConfiguration(t *testing.T) {
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:pass"))
	for name, config := range map[string]string{
		"login":             `{"auths":{"registry.example.com":{"auth":"` + strings.TrimPrefix(basic, "Basic ") + `"}}}`,
		"credential helper": `{"credHelpers":{"registry.example.com":"tidegate-test"}}`,
		"credential store":  `{"auths":{"registry.example.com":{}},"credsStore":"tidegate-test"}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600))
			helper := "#!/bin/sh\nread host\n[ \"$1 $host\" = 'get registry.example.com' ] || { echo credentials not found in native keychain; exit 1; }\necho '{\"ServerURL\":\"registry.example.com\",\"Username\":\"user\",\"Secret\":\"pass\"}'\n"
			require.NoError(t, os.WriteFile(filepath.Join(dir, "docker-credential-tidegate-test"), []byte(helper), 0o700))
			t.Setenv("DOCKER_CONFIG", dir)
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			n := newInternet(t, map[string]http.HandlerFunc{registryHost: func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != basic {
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				http.NotFound(w, r)
			}})
			client := n.client(Options{})
			_, err := client.Resolve(context.Background(), registryHost+"/app", v1.Platform{OS: "linux", Architecture: "amd64"}, nil)
			require.True(t, NotFound(err), "%v", err)
			require.Contains(t, n.seen[registryHost], basic)
		})
	}
}

func TestABrokenCredentialHelperIsToldAtOnce(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credHelpers":{"registry.example.com":"tidegate-none"}}`), 0o600))
	t.Setenv("DOCKER_CONFIG", dir)
	k := &clock{}
	_, err := New(Options{Retry: k.retry()}).Resolve(context.Background(), registryHost+"/app", v1.Platform{}, nil)
	require.ErrorContains(t, err, "docker-credential-tidegate-none")
	require.Empty(t, k.pauses)
}
