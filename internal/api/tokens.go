package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
	"github.com/tidegate-ci/tidegate/pipeline"
)

// Role is what a token may do; each includes the one before.
type Role string

// The roles.
const (
	RoleRead    Role = "read"    // see runs, logs and events
	RoleOperate Role = "operate" // start, cancel, rerun and, where the stage allows it, approve
	RoleAdmin   Role = "admin"   // all of it, tokens included
)

var roleRank = map[Role]int{RoleRead: 1, RoleOperate: 2, RoleAdmin: 3}

// Includes tells whether r may do what needs want. An unknown role may nothing.
func (r Role) Includes(want Role) bool {
	return roleRank[r] != 0 && roleRank[want] != 0 && roleRank[r] >= roleRank[want]
}

// Token is a stored token; the secret itself is not kept.
type Token struct {
	// Name is unique; it is how a token is revoked.
	Name    string    `json:"name"`
	User    string    `json:"user"`
	Groups  []string  `json:"groups,omitempty"`
	Role    Role      `json:"role"`
	Created time.Time `json:"created"`
	// Expires ends the token; zero means never.
	Expires time.Time `json:"expires,omitzero"`
	// SHA256 is the hash of the secret, in hexadecimal. The secret has 256
	// random bits, so that a slow hash would add nothing.
	SHA256 string `json:"sha256,omitempty"`
}

const (
	tokenPrefix   = "tidegate_"
	tokenBytes    = 32
	maxTokens     = 1000
	maxTokenFile  = 1 << 20
	maxTokenGroup = 64
)

// tokenWord is what names, users and groups look like: they end up in logs,
// in the journal and in pipeline files.
var tokenWord = lazyregexp.New(`^[\pL\pN][\pL\pN._@+-]{0,99}$`)

// Tokens is the file of tokens. It may be changed by another process: each use
// looks whether it was. The zero value is not usable; see OpenTokens.
type Tokens struct {
	path   string
	random io.Reader
	now    func() time.Time

	mu     sync.Mutex
	seen   fileVersion
	tokens []Token
}

type fileVersion struct {
	modified time.Time
	size     int64
	inode    uint64
}

type tokenFile struct {
	Version int     `json:"version"`
	Tokens  []Token `json:"tokens"`
}

// OpenTokens reads the token file; one that does not exist counts as empty.
// random gives the secrets (crypto/rand.Reader), now the time they are made.
func OpenTokens(path string, random io.Reader, now func() time.Time) (*Tokens, error) {
	t := &Tokens{path: path, random: random, now: now}
	if _, err := t.List(); err != nil {
		return nil, err
	}
	return t, nil
}

// List returns all tokens by name, without their hashes.
func (t *Tokens) List() ([]Token, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.refresh(); err != nil {
		return nil, err
	}
	list := slices.Clone(t.tokens)
	for i := range list {
		list[i].SHA256 = ""
	}
	slices.SortFunc(list, func(a, b Token) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Create stores a token and returns its secret, which is shown only this once.
// Created and SHA256 of the argument are ignored. A name that is taken, or a
// word that does not look like a name, is a pipeline.CauseInvalid error.
func (t *Tokens) Create(token Token) (secret string, err error) {
	if err := checkToken(token); err != nil {
		return "", err
	}
	if secret, err = t.newSecret(); err != nil {
		return "", err
	}
	token.Created = t.now().UTC().Truncate(time.Second)
	token.SHA256 = hashSecret(secret)
	err = t.change(func(tokens []Token) ([]Token, error) {
		if slices.ContainsFunc(tokens, func(o Token) bool { return o.Name == token.Name }) {
			return nil, pipeline.Fail(pipeline.CauseInvalid, "there is a token %q already: revoke it first or take another name", token.Name)
		}
		if len(tokens) >= maxTokens {
			return nil, pipeline.Fail(pipeline.CauseInvalid, "there are %d tokens, which is the limit: revoke some first", len(tokens))
		}
		return append(tokens, token), nil
	})
	if err != nil {
		return "", err
	}
	return secret, nil
}

// EnsureFirst makes an admin token when there is none of any kind, as on the
// first start of a server, and writes its secret to path for the owner of the
// file alone. It tells whether it did. The secret is written before the token
// is stored: after a crash in between, the next start makes another.
func (t *Tokens) EnsureFirst(path string) (made bool, err error) {
	list, err := t.List()
	if err != nil || len(list) > 0 {
		return false, err
	}
	secret, err := t.newSecret()
	if err != nil {
		return false, err
	}
	if err := replaceFile(path, []byte(secret+"\n")); err != nil {
		return false, fmt.Errorf("writing the first token: %w", err)
	}
	token := Token{Name: "admin", User: "admin", Role: RoleAdmin, Created: t.now().UTC().Truncate(time.Second), SHA256: hashSecret(secret)}
	err = t.change(func(tokens []Token) ([]Token, error) {
		if len(tokens) > 0 {
			return nil, errors.New("another process made a token at the same time: start again")
		}
		return []Token{token}, nil
	})
	return err == nil, err
}

func (t *Tokens) newSecret() (string, error) {
	raw := make([]byte, tokenBytes)
	if _, err := io.ReadFull(t.random, raw); err != nil {
		return "", fmt.Errorf("making a token: %w", err)
	}
	return tokenPrefix + hex.EncodeToString(raw), nil
}

// Revoke removes a token by name; the next request with it is refused.
func (t *Tokens) Revoke(name string) error {
	return t.change(func(tokens []Token) ([]Token, error) {
		left := slices.DeleteFunc(slices.Clone(tokens), func(o Token) bool { return o.Name == name })
		if len(left) == len(tokens) {
			return nil, pipeline.Fail(pipeline.CauseInvalid, "there is no token %q", name)
		}
		return left, nil
	})
}

// Authenticate tells whom a secret stands for. How long it takes does not
// depend on how near a wrong secret comes. An error means that the file could
// not be read, and then nobody is let in.
func (t *Tokens) Authenticate(secret string) (Identity, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.refresh(); err != nil {
		return Identity{}, false, err
	}
	given := []byte(hashSecret(secret))
	found := -1
	for i := range t.tokens {
		if subtle.ConstantTimeCompare(given, []byte(t.tokens[i].SHA256)) == 1 {
			found = i
		}
	}
	if found < 0 {
		return Identity{}, false, nil
	}
	token := t.tokens[found]
	if !token.Expires.IsZero() && !t.now().Before(token.Expires) {
		return Identity{}, false, nil
	}
	return Identity{Token: token.Name, User: token.User, Groups: slices.Clone(token.Groups), Role: token.Role}, true, nil
}

func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func checkToken(token Token) error {
	for _, word := range append([]string{token.Name, token.User}, token.Groups...) {
		if !tokenWord().MatchString(word) {
			return pipeline.Fail(pipeline.CauseInvalid, "%q is not a name: use up to 100 letters, digits and . _ @ + -, the first a letter or digit", word)
		}
	}
	if len(token.Groups) > maxTokenGroup {
		return pipeline.Fail(pipeline.CauseInvalid, "%d groups are too many: at most %d", len(token.Groups), maxTokenGroup)
	}
	if roleRank[token.Role] == 0 {
		return pipeline.Fail(pipeline.CauseInvalid, "unknown role %q: use read, operate or admin", token.Role)
	}
	return nil
}

// refresh reads the file again if it is not the one read last.
func (t *Tokens) refresh() error {
	file, err := os.Open(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		t.tokens, t.seen = nil, fileVersion{}
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading tokens: %w", err)
	}
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return fmt.Errorf("reading tokens from %s: %w", t.path, err)
	}
	version := fileVersion{modified: time.Unix(stat.Mtim.Unix()), size: stat.Size, inode: stat.Ino}
	if version == t.seen {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(file, maxTokenFile+1))
	if err != nil {
		return fmt.Errorf("reading tokens from %s: %w", t.path, err)
	}
	tokens, err := parseTokens(data)
	if err != nil {
		return fmt.Errorf("reading tokens from %s: %w", t.path, err)
	}
	t.tokens, t.seen = tokens, version
	return nil
}

func parseTokens(data []byte) ([]Token, error) {
	if len(data) > maxTokenFile {
		return nil, fmt.Errorf("the file is larger than %d bytes", maxTokenFile)
	}
	var file tokenFile
	if err := strictJSON(data, &file); err != nil {
		return nil, err
	}
	if file.Version != 1 {
		return nil, fmt.Errorf("version %d is not known to this tidegate", file.Version)
	}
	if len(file.Tokens) > maxTokens {
		return nil, fmt.Errorf("%d tokens are too many: at most %d", len(file.Tokens), maxTokens)
	}
	for _, token := range file.Tokens {
		if err := checkToken(token); err != nil {
			return nil, fmt.Errorf("token %q: %w", token.Name, err)
		}
		if hash, err := hex.DecodeString(token.SHA256); err != nil || len(hash) != sha256.Size || token.SHA256 != strings.ToLower(token.SHA256) {
			return nil, fmt.Errorf("token %q: sha256 is not a SHA-256 hash in hexadecimal", token.Name)
		}
	}
	return file.Tokens, nil
}

// change rewrites the file under a lock that other processes honour too.
func (t *Tokens) change(edit func([]Token) ([]Token, error)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	lock, err := os.OpenFile(t.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("changing tokens: %w", err)
	}
	defer lock.Close() // releases the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("changing tokens: locking %s: %w", lock.Name(), err)
	}
	if err := t.refresh(); err != nil {
		return err
	}
	tokens, err := edit(slices.Clone(t.tokens))
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(tokenFile{Version: 1, Tokens: tokens}, "", "  ")
	if err != nil {
		return fmt.Errorf("changing tokens: %w", err)
	}
	if err := replaceFile(t.path, append(data, '\n')); err != nil {
		return fmt.Errorf("changing tokens: %w", err)
	}
	return t.refresh()
}

// replaceFile puts data in place of the file whole or not at all, for its
// owner's eyes only.
func replaceFile(path string, data []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}
