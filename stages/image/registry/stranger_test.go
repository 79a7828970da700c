package registry

import (
	"context"
	"net/http"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
)

// A fork's build names any registry; this machine's logins are for those that
// its own settings name.
func TestStrangersGetNoCredentialsButForNamedRegistries(t *testing.T) {
	for name, test := range map[string]struct {
		options Options
		host    string
		given   bool
	}{
		"not named":         {Options{}, registryHost, false},
		"another is named":  {Options{Default: "other.example.com"}, registryHost, false},
		"the default":       {Options{Default: registryHost}, registryHost, true},
		"a mirror":          {Options{Mirrors: map[string][]string{"docker.io": {registryHost}}}, registryHost, true},
		"with login realms": {Options{Realms: map[string][]string{registryHost: {"auth.example.com"}}}, registryHost, true},
		"sub-domain":        {Options{Default: "example.com"}, registryHost, false},
	} {
		t.Run(name, func(t *testing.T) {
			asked := false
			n := newInternet(t, map[string]http.HandlerFunc{registryHost: func(w http.ResponseWriter, r *http.Request) {
				if _, password, ok := r.BasicAuth(); ok {
					asked = true
					require.Equal(t, "canary", password)
				} else {
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				http.NotFound(w, r)
			}})
			test.options.Keychain = login{registryHost, authn.AuthConfig{Username: "user", Password: "canary"}}
			client := n.client(test.options)
			resolve := func(c *Client) {
				asked = false
				_, err := c.Resolve(context.Background(), test.host+"/app", v1.Platform{OS: "linux", Architecture: "amd64"}, nil)
				require.Error(t, err)
			}
			resolve(client)
			require.True(t, asked, "who may do what this machine can is logged in")
			resolve(client.ForStrangers())
			require.Equal(t, test.given, asked)
		})
	}
}
