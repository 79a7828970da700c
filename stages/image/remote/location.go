// Package remote brings what a build takes from elsewhere: files by HTTP and
// trees by Git. Both come through one Client, which bounds what it reads, sends
// credentials only where they belong, and can be kept from addresses that only
// its own machine should reach.
package remote

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/util/gitutil"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
)

// Git is a tree in a Git repository.
type Git struct {
	// Remote is the repository: an http, https, ssh or git URL, or user@host:path.
	Remote string
	Scheme string
	// Host is without port, User the name to log in with; Password came in the URL.
	Host, User, Password string
	// Ref is a branch, a tag, a full ref or a full commit; empty means the default branch.
	Ref string
	// Commit is what Ref must lead to, or the beginning of that; empty if any will do.
	Commit string
	// Direct says that Commit is fetched whatever Ref leads to.
	Direct bool
	// Directory of the repository, clean and relative; empty means its root.
	Directory string
	// KeepGitDir keeps .git; nil if the URL does not say. Submodules are
	// brought along unless it is false.
	KeepGitDir, Submodules *bool
}

// IsHTTP tells whether text is a URL that is fetched by HTTP as it stands.
func IsHTTP(text string) bool {
	if !strings.HasPrefix(text, "http://") && !strings.HasPrefix(text, "https://") {
		return false
	}
	_, is, _ := ParseGit(text)
	return !is
}

// maxLocation bounds a URL, in bytes.
const maxLocation = 8 << 10

// ParseGit reads a Git location as BuildKit does: REMOTE[#REF[:DIRECTORY]] or
// REMOTE?ref=…&branch=…&tag=…&subdir=…&checksum=…&keep-git-dir=…&submodules=….
// HTTP URLs are Git's when their path ends in ".git". It tells whether text is a
// Git location; if so an error says what is wrong with it.
func ParseGit(text string) (*Git, bool, error) {
	if len(text) > maxLocation {
		return nil, false, errors.New("the URL is too long")
	}
	ref, is, err := dfgitutil.ParseGitRef(text)
	if err != nil {
		return nil, is, err
	}
	if ref.IndistinguishableFromLocal {
		return nil, false, nil // github.com/… is a path as well
	}
	remote, err := gitutil.ParseURL(ref.Remote)
	if err != nil {
		return nil, true, err
	}
	g := &Git{
		Remote: ref.Remote, Scheme: strings.ToLower(remote.Scheme), Ref: ref.Ref, Commit: strings.ToLower(ref.Checksum), Direct: ref.FetchByCommit,
		Directory: strings.TrimPrefix(path.Join("/", ref.SubDir), "/"), KeepGitDir: ref.KeepGitDir, Submodules: ref.Submodules,
	}
	if ref.MTime != "" && ref.MTime != "checkout" {
		return nil, true, fmt.Errorf("mtime=%s is not supported: every file has the time of the build's epoch", ref.MTime)
	}
	if user := remote.User; user != nil {
		g.User = user.Username()
		g.Password, _ = user.Password()
	}
	g.Host = hostOnly(remote.Host)
	return g, true, g.check()
}

func hostOnly(host string) string {
	u := url.URL{Host: host}
	return strings.ToLower(u.Hostname())
}

var (
	hexPattern  = lazyregexp.New(`^[0-9a-f]{1,64}$`)
	hostPattern = lazyregexp.New(`^[0-9A-Za-z:][0-9A-Za-z._:-]*$`)
	userPattern = lazyregexp.New(`^[0-9A-Za-z_][0-9A-Za-z._@+-]*$`)
)

// check refuses what no command line, URL or ref should be made of, although
// none of it becomes an argument of a command here.
func (g *Git) check() error {
	switch g.Scheme {
	case "https", "http", "ssh", "git":
	default:
		return fmt.Errorf("the transport %q is not supported: use https, http, ssh or git", g.Scheme)
	}
	if !hostPattern().MatchString(g.Host) {
		return fmt.Errorf("%q is not a host", g.Host)
	}
	if g.User != "" && !userPattern().MatchString(g.User) {
		return errors.New("the user's name has unusual characters")
	}
	if strings.HasPrefix(strings.TrimLeft(g.Remote, "/"), "-") || strings.ContainsFunc(g.Remote, control) {
		return errors.New("the repository's name starts with a dash or has control characters")
	}
	if err := checkRef(g.Ref); err != nil {
		return err
	}
	if g.Commit != "" && !hexPattern().MatchString(g.Commit) {
		return fmt.Errorf("the checksum %q is not a commit's hexadecimal hash", g.Commit)
	}
	if g.Direct && len(g.Commit) != 40 && len(g.Commit) != 64 {
		return errors.New("fetch-by-commit needs a checksum that is a full commit hash")
	}
	if strings.ContainsFunc(g.Directory, control) {
		return errors.New("the directory has control characters")
	}
	return nil
}

// checkRef wants a ref that Git itself would take (see git-check-ref-format).
func checkRef(ref string) error {
	if ref == "" {
		return nil
	}
	bad := strings.HasPrefix(ref, "-") || strings.HasPrefix(ref, "/") || strings.HasSuffix(ref, "/") || strings.HasSuffix(ref, ".lock") ||
		strings.HasSuffix(ref, ".") || strings.Contains(ref, "..") || strings.Contains(ref, "//") || strings.Contains(ref, "@{") ||
		strings.ContainsAny(ref, " ~^:?*[\\") || strings.ContainsFunc(ref, control)
	if bad {
		return fmt.Errorf("%q is not the name of a branch, tag or commit", ref)
	}
	return nil
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

// String is the location without what is secret in it.
func (g *Git) String() string {
	text := g.Remote
	if u, err := url.Parse(g.Remote); err == nil && u.Host != "" {
		text = u.Redacted()
	}
	if g.Ref != "" || g.Directory != "" {
		text += "#" + g.Ref
	}
	if g.Directory != "" {
		text += ":" + g.Directory
	}
	return text
}

// Redacted is a URL without its password and query, for messages.
func Redacted(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "the URL"
	}
	u.RawQuery, u.Fragment = "", ""
	return u.Redacted()
}

// WithoutPassword is a URL without its password; what is no URL stays as it is.
func WithoutPassword(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User == nil {
		return text
	}
	if _, has := u.User.Password(); !has {
		return text
	}
	u.User = url.User(u.User.Username())
	return u.String()
}
