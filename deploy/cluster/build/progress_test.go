package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestProgress(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := func() time.Time { at = at.Add(6 * time.Second); return at }
	lines := []string{"go: downloading x v1", "a/b", "# a/c", "a/b", "a/c", "unknown", "a/d"}

	var plain bytes.Buffer
	p := newProgress(&plain, false, []string{"a/b", "a/c", "a/d"}, clock)
	for _, l := range lines {
		p.line(l)
	}
	p.done("out")
	want := "compiled 1 of at most 3 packages, 18s\ncompiled 3 of at most 3 packages, 30s\nbuilt out in 36s: 3 packages compiled, the others were up to date\n"
	if plain.String() != want {
		t.Errorf("plain:\n%s", plain.String())
	}

	var tty bytes.Buffer
	p = newProgress(&tty, true, []string{"a/b", "a/c", "a/d"}, clock)
	for _, l := range lines {
		p.line(l)
	}
	if got := tty.String(); !strings.Contains(got, "[####################..........] compiled 2 of at most 3 packages") || strings.Contains(got, "\n") {
		t.Errorf("tty: %q", got)
	}
}

func TestVersionFlags(t *testing.T) {
	got, err := versionFlags("v1.36.3")
	if err != nil || !strings.Contains(got, "gitVersion=v1.36.3") || !strings.Contains(got, "gitMajor=1 ") || !strings.HasSuffix(got, "gitMinor=36") {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{"", "v1", "(devel)"} {
		if _, err := versionFlags(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
