package server

import (
	"crypto/rand"
	"fmt"
	"os"
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
	known, err := tokens.List()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(data, AdminTokenFile)
	if len(known) > 0 {
		return tokens, nil
	}
	secret, err := tokens.Create(api.Token{Name: "admin", User: "admin", Role: api.RoleAdmin})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("write the first token: %w", err)
	}
	return tokens, nil
}
