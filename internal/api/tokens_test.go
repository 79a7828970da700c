package api

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
)

func openTokens(t *testing.T, path string, now func() time.Time) *Tokens {
	t.Helper()
	tokens, err := OpenTokens(path, rand.Reader, now)
	require.NoError(t, err)
	return tokens
}

func TestTokens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	tokens := openTokens(t, path, func() time.Time { return start })
	list, err := tokens.List()
	require.NoError(t, err)
	require.Empty(t, list)

	secret, err := tokens.Create(Token{Name: "laptop", User: "mona@example.com", Groups: []string{"ops", "dev"}, Role: RoleOperate})
	require.NoError(t, err)
	identity, ok, err := tokens.Authenticate(secret)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, Identity{Token: "laptop", User: "mona@example.com", Groups: []string{"ops", "dev"}, Role: RoleOperate}, identity)

	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(data), secret[len(tokenPrefix):], "only the hash is stored")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	list, err = tokens.List()
	require.NoError(t, err)
	require.Equal(t, []Token{{Name: "laptop", User: "mona@example.com", Groups: []string{"ops", "dev"}, Role: RoleOperate, Created: start}}, list)

	_, err = tokens.Create(Token{Name: "laptop", User: "eve", Role: RoleAdmin})
	require.ErrorContains(t, err, `there is a token "laptop" already`)
	require.NoError(t, tokens.Revoke("laptop"))
	_, ok, err = tokens.Authenticate(secret)
	require.NoError(t, err)
	require.False(t, ok)
	require.ErrorContains(t, tokens.Revoke("laptop"), `no token "laptop"`)
}

func TestFirstToken(t *testing.T) {
	directory := t.TempDir()
	tokens := openTokens(t, filepath.Join(directory, "tokens.json"), time.Now)
	path := filepath.Join(directory, "admin-token")
	require.NoError(t, os.WriteFile(path, []byte("left by a start that crashed\n"), 0o644))
	made, err := tokens.EnsureFirst(path)
	require.NoError(t, err)
	require.True(t, made)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	secret, err := os.ReadFile(path)
	require.NoError(t, err)
	identity, ok, err := tokens.Authenticate(strings.TrimSpace(string(secret)))
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, RoleAdmin, identity.Role)

	made, err = tokens.EnsureFirst(path)
	require.NoError(t, err)
	require.False(t, made)
	again, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, secret, again)

	_, err = openTokens(t, filepath.Join(directory, "other.json"), time.Now).EnsureFirst(filepath.Join(directory, "no", "admin-token"))
	require.ErrorContains(t, err, "writing the first token")
}

func TestTokensExpire(t *testing.T) {
	now := start
	tokens := openTokens(t, filepath.Join(t.TempDir(), "tokens.json"), func() time.Time { return now })
	secret, err := tokens.Create(Token{Name: "ci", User: "ci", Role: RoleRead, Expires: start.Add(time.Hour)})
	require.NoError(t, err)
	for after, want := range map[time.Duration]bool{0: true, time.Hour - 1: true, time.Hour: false, 2 * time.Hour: false} {
		now = start.Add(after)
		_, ok, err := tokens.Authenticate(secret)
		require.NoError(t, err)
		require.Equal(t, want, ok, after)
	}
}

// TestTokensOfAnotherProcess: what `tidegate tokens` changes, a running server sees.
func TestTokensOfAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	server, other := openTokens(t, path, time.Now), openTokens(t, path, time.Now)
	secret, err := other.Create(Token{Name: "new", User: "u", Role: RoleRead})
	require.NoError(t, err)
	_, ok, err := server.Authenticate(secret)
	require.NoError(t, err)
	require.True(t, ok)
	require.NoError(t, other.Revoke("new"))
	_, ok, err = server.Authenticate(secret)
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, os.Remove(path))
	list, err := server.List()
	require.NoError(t, err)
	require.Empty(t, list)
}

func TestTokensAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	var group sync.WaitGroup
	for p := range 4 {
		tokens := openTokens(t, path, time.Now)
		for i := range 5 {
			group.Go(func() {
				_, err := tokens.Create(Token{Name: fmt.Sprintf("t-%d-%d", p, i), User: "u", Role: RoleRead})
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	group.Wait()
	list, err := openTokens(t, path, time.Now).List()
	require.NoError(t, err)
	require.Len(t, list, 20, "none is lost")
}

func TestBadTokenFileLetsNobodyIn(t *testing.T) {
	hash := strings.Repeat("a", 64)
	for name, content := range map[string]string{
		"not JSON":      "tokens",
		"empty":         "",
		"unknown key":   `{"version":1,"tokens":[],"more":1}`,
		"other version": `{"version":2,"tokens":[]}`,
		"short hash":    `{"version":1,"tokens":[{"name":"a","user":"a","role":"admin","created":"2026-05-01T12:00:00Z","sha256":"aa"}]}`,
		"empty hash":    `{"version":1,"tokens":[{"name":"a","user":"a","role":"admin","created":"2026-05-01T12:00:00Z"}]}`,
		"unknown role":  `{"version":1,"tokens":[{"name":"a","user":"a","role":"root","created":"2026-05-01T12:00:00Z","sha256":"` + hash + `"}]}`,
		"no user":       `{"version":1,"tokens":[{"name":"a","user":"","role":"admin","created":"2026-05-01T12:00:00Z","sha256":"` + hash + `"}]}`,
		"two documents": `{"version":1,"tokens":[]}{}`,
		"too large":     strings.Repeat(" ", maxTokenFile+1),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "tokens.json")
			tokens := openTokens(t, path, time.Now)
			secret, err := tokens.Create(Token{Name: "a", User: "a", Role: RoleAdmin})
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
			_, ok, err := tokens.Authenticate(secret)
			require.ErrorContains(t, err, path)
			require.False(t, ok)
			_, err = OpenTokens(path, rand.Reader, time.Now)
			require.Error(t, err)
			_, err = tokens.Create(Token{Name: "b", User: "b", Role: RoleAdmin})
			require.Error(t, err, "a file that was not understood is not overwritten")
		})
	}
}

func TestTokenNames(t *testing.T) {
	tokens := openTokens(t, filepath.Join(t.TempDir(), "tokens.json"), time.Now)
	for _, bad := range []Token{
		{Name: "", User: "u", Role: RoleRead},
		{Name: "a b", User: "u", Role: RoleRead},
		{Name: "n", User: "u\n", Role: RoleRead},
		{Name: "n", User: "../u", Role: RoleRead},
		{Name: "n", User: "u", Groups: []string{"\x1b[2J"}, Role: RoleRead},
		{Name: strings.Repeat("n", 101), User: "u", Role: RoleRead},
		{Name: "n", User: "u", Role: ""},
		{Name: "n", User: "u", Role: "root"},
		{Name: "n", User: "u", Role: RoleRead, Groups: make([]string, 65)},
	} {
		_, err := tokens.Create(bad)
		require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err), bad)
	}
	_, err := OpenTokens(filepath.Join(t.TempDir(), "no", "tokens.json"), bytes.NewReader(nil), time.Now)
	require.NoError(t, err, "a missing file is empty")
	broken, err := OpenTokens(filepath.Join(t.TempDir(), "tokens.json"), bytes.NewReader(nil), time.Now)
	require.NoError(t, err)
	_, err = broken.Create(Token{Name: "n", User: "u", Role: RoleRead})
	require.ErrorContains(t, err, "making a token", "no secret without randomness")
}

func TestRoles(t *testing.T) {
	order := []Role{RoleRead, RoleOperate, RoleAdmin}
	for i, have := range order {
		for j, want := range order {
			require.Equal(t, i >= j, have.Includes(want), "%s includes %s", have, want)
		}
		require.False(t, Role("").Includes(have))
		require.False(t, have.Includes("root"))
	}
}

func FuzzTokenFile(f *testing.F) {
	for _, seed := range []string{
		`{"version":1,"tokens":[]}`, `{}`, ``, `[`, `{"version":1,"tokens":[{"name":"a","user":"a","groups":["g"],"role":"admin","created":"2026-05-01T12:00:00Z","sha256":"` + strings.Repeat("a", 64) + `"}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tokens, err := parseTokens(data)
		if err != nil {
			return
		}
		for _, token := range tokens {
			if checkToken(token) != nil || len(token.SHA256) != 64 {
				t.Fatalf("let through %+v", token)
			}
		}
		encoded, err := json.Marshal(tokenFile{Version: 1, Tokens: tokens})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseTokens(encoded); err != nil {
			t.Fatalf("not read back: %v", err)
		}
	})
}
