package server

import (
	"crypto/rand"
	"path/filepath"
	"time"

	"github.com/tidegate-ci/tidegate/internal/api"
)

// AdminTokenFile holds the first token, in the data directory.
const AdminTokenFile = "admin-token"

// openTokens opens the token file. The first start makes an administrator's
// token and writes it where only the server's own user can read it.
func openTokens(data string) (*api.Tokens, error) {
	tokens, err := api.OpenTokens(filepath.Join(data, "tokens.json"), rand.Reader, time.Now)
	if err != nil {
		return nil, err
	}
	if _, err := tokens.EnsureFirst(filepath.Join(data, AdminTokenFile)); err != nil {
		return nil, err
	}
	return tokens, nil
}
