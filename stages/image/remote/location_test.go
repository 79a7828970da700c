package remote

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGitLocations(t *testing.T) {
	no, yes := false, true
	for text, want := range map[string]Git{
		"https://h.example/a/b.git":                   {Remote: "https://h.example/a/b.git", Scheme: "https", Host: "h.example"},
		"https://h.example:8443/b.git#main:sub/dir":   {Remote: "https://h.example:8443/b.git", Scheme: "https", Host: "h.example", Ref: "main", Directory: "sub/dir"},
		"git@h.example:a/b.git#v1":                    {Remote: "git@h.example:a/b.git", Scheme: "ssh", Host: "h.example", User: "git", Ref: "v1"},
		"ssh://u@h.example:2222/a.git":                {Remote: "ssh://u@h.example:2222/a.git", Scheme: "ssh", Host: "h.example", User: "u"},
		"https://h.example/b.git?branch=x&subdir=y/z": {Remote: "https://h.example/b.git", Scheme: "https", Host: "h.example", Ref: "refs/heads/x", Directory: "y/z"},
		"https://h.example/b.git?tag=v1&keep-git-dir": {Remote: "https://h.example/b.git", Scheme: "https", Host: "h.example", Ref: "refs/tags/v1", KeepGitDir: &yes},
		"https://h.example/b.git?submodules=false":    {Remote: "https://h.example/b.git", Scheme: "https", Host: "h.example", Submodules: &no},
		"https://h.example/b.git?checksum=ABC123":     {Remote: "https://h.example/b.git", Scheme: "https", Host: "h.example", Commit: "abc123"},
		"https://h.example/b.git#:../../etc":          {Remote: "https://h.example/b.git", Scheme: "https", Host: "h.example", Directory: "etc"},
	} {
		got, is, err := ParseGit(text)
		require.NoError(t, err, text)
		require.True(t, is, text)
		require.Equal(t, want, *got, text)
	}
	for _, text := range []string{"a/b", "./x.git", "/tmp/x.git", "https://h.example/file.tar.gz", "github.com/a/b", "C:/x", ""} {
		_, is, _ := ParseGit(text)
		require.False(t, is, text)
	}
	require.True(t, IsHTTP("https://h.example/file.tar.gz"))
	require.False(t, IsHTTP("https://h.example/file.git"))
}

// None of it is given to a command here; it is refused all the same, for
// repositories and logs are read by others.
func TestInjectionIsRefused(t *testing.T) {
	for _, text := range []string{
		"https://h.example/b.git#--upload-pack=touch /tmp/x", "https://h.example/b.git#-x", "https://h.example/b.git?ref=--upload-pack=x",
		"https://h.example/b.git?branch=a%0ab", "https://h.example/b.git#a..b", "https://h.example/b.git#a b", "https://h.example/b.git#@{upstream}",
		"ssh://-oProxyCommand=touch%20x/b.git", "git@-oProxyCommand=x:b.git", "ssh://-x@h.example/b.git", "https://h.example/b.git?checksum=zz",
		"https://h.example/b.git?mtime=commit", "https://h.example/b.git?fetch-by-commit=1&checksum=abc", "https://h.example/b.git#main:a%00b",
	} {
		got, is, err := ParseGit(text)
		require.True(t, !is || err != nil, "%s gives %+v", text, got)
	}
	for _, text := range []string{"ext::sh -c touch% /tmp/x", "file:///etc/repo.git", "fd::17", "--upload-pack=x", "-x@h:b.git"} {
		_, is, err := ParseGit(text)
		require.True(t, !is || err != nil, text)
	}
	for _, location := range []string{"ext::sh -c x", "file:///etc", "/etc", "--upload-pack=x", "../../../../../../h:x", "fd::1", "ssh://-oProxyCommand=x/y.git"} {
		_, err := submoduleOf(&Git{Remote: "user@h:x", Scheme: "ssh", Host: "h"}, location)
		if location == "../../../../../../h:x" {
			continue // stays on the same host, wherever it leads there
		}
		require.Error(t, err, location)
	}
}

func TestSubmodulesMayBeRelative(t *testing.T) {
	for _, c := range [][3]string{
		{"https://h.example/a/b.git", "../c.git", "https://h.example/a/c.git"}, {"git@h.example:a/b.git", "../c.git", "git@h.example:a/c.git"},
		{"https://h.example/a/b.git", "../../../../../c.git", "https://h.example/c.git"}, {"https://h.example/a/b.git", "https://o.example/c", "https://o.example/c"},
	} {
		g, _, err := ParseGit(c[0])
		require.NoError(t, err)
		module, err := submoduleOf(g, c[1])
		require.NoError(t, err)
		require.Equal(t, c[2], module.Remote)
	}
}

func TestMessagesHaveNoPasswords(t *testing.T) {
	g, _, err := ParseGit("https://user:canary@h.example/b.git#main")
	require.NoError(t, err)
	require.Equal(t, "canary", g.Password)
	require.NotContains(t, g.String(), "canary")
	require.NotContains(t, Redacted("https://user:canary@h.example/x?token=canary#canary"), "canary")
	require.NotContains(t, WithoutPassword(g.Remote), "canary")
}

func FuzzParseGit(f *testing.F) {
	for _, seed := range []string{
		"https://h.example/a.git#ref:dir", "git@h:a.git", "ssh://u:p@h:22/a.git?ref=x&subdir=y", "ext::sh", "file:///x.git", "https://h/a.git#--x", "git://[::1]:9418/a.git",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		g, is, err := ParseGit(text)
		if !is || err != nil {
			return
		}
		for _, part := range []string{g.Remote, g.Ref, g.Host, g.User, g.Directory} {
			require.False(t, strings.HasPrefix(part, "-") && part != g.Directory, part)
			require.False(t, strings.ContainsFunc(part, control), part)
		}
		require.NotContains(t, "/"+g.Directory+"/", "/../")
		require.Contains(t, []string{"https", "http", "ssh", "git"}, g.Scheme)
	})
}
