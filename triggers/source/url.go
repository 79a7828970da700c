package source

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Protocols that may be allowed.
const (
	HTTPS = "https"
	HTTP  = "http"
	SSH   = "ssh"
	File  = "file"
)

const maxURL = 2 << 10

// checkURL normalises the URL of a repository and refuses what no policy may
// allow: transports that run commands, credentials in the text, and anything
// that a program could take for an option.
func checkURL(raw string, allowed []string) (*url.URL, error) {
	refuse := func(format string, args ...any) (*url.URL, error) {
		return nil, fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
	}
	switch {
	case raw == "":
		return refuse("the repository has no clone URL")
	case len(raw) > maxURL:
		return refuse("the clone URL is longer than %d bytes", maxURL)
	case strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' || r == '\'' || r == '`' }):
		return refuse("the clone URL has spaces, quotes or control characters")
	case strings.HasPrefix(raw, "-"):
		return refuse("the clone URL starts with a dash")
	case strings.Contains(raw, "::"):
		return refuse("clone URLs of the form transport::address are not supported")
	}
	if !strings.Contains(raw, "://") {
		// git@host:path is short for ssh://git@host/path.
		host, path, ok := strings.Cut(raw, ":")
		if !ok || strings.Contains(host, "/") {
			return refuse("the clone URL has no scheme: write %s", strings.Join(allowed, "://… or ")+"://…")
		}
		raw = "ssh://" + host + "/" + strings.TrimPrefix(path, "/")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return refuse("the clone URL does not parse") // url.Error would repeat it, password and all
	}
	if !slices.Contains(allowed, u.Scheme) {
		return refuse("clone URLs of scheme %q are not allowed (allowed: %s)", u.Scheme, strings.Join(allowed, ", "))
	}
	if u.User != nil {
		_, password := u.User.Password()
		if password || u.Scheme != SSH || strings.HasPrefix(u.User.Username(), "-") {
			return refuse("the clone URL has credentials in it: configure them apart from the URL")
		}
	}
	switch {
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return refuse("the clone URL has a query or a fragment")
	case u.Scheme == File && u.Host != "":
		return refuse("a file URL names no host: write file:///path")
	case u.Scheme != File && (u.Hostname() == "" || strings.HasPrefix(u.Host, "-")):
		return refuse("the clone URL has no valid host")
	case !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "/-"):
		return refuse("the clone URL has no valid path")
	case slices.Contains(strings.Split(u.Path, "/"), ".."):
		return refuse("the clone URL's path goes up")
	}
	return u, nil
}
