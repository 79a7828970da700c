package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDefaults(t *testing.T) {
	s, err := Parse("empty", nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Listen != "127.0.0.1:8080" || s.Registry.Push != "127.0.0.1:5000" || s.Limits.Runs != DefaultRuns {
		t.Fatalf("defaults: %+v", s)
	}
}

func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct{ file, want string }{
		"unknown key":      {"listn: :80\n", "1:1"},
		"wrong type":       {"limits: {runs: many}\n", "1:16"},
		"no secret":        {"repositories: [{name: octo/shop}]\n", "webhook-secret is required"},
		"bad name":         {"repositories: [{name: shop, webhook-secret: {env: X}}]\n", "owner/name"},
		"twice":            {"repositories: [{name: o/s, webhook-secret: {env: X}}, {name: O/S, webhook-secret: {env: X}}]\n", "twice"},
		"nowhere to push":  {"registry: {listen: off}\n", "push is required"},
		"notified nowhere": {"notifications: [{name: a}]\n", "webhook or slack"},
		"notified twice":   {"notifications: [{name: a, slack: {url: {env: A}}}, {name: a, slack: {url: {env: A}}}]\n", "is taken"},
		"unsigned":         {"notifications: [{name: a, webhook: {url: 'https://x/y'}}]\n", "webhook.secret is required"},
		"password in URL":  {"notifications: [{name: a, webhook: {url: 'https://u:hunter2@x/y', secret: {env: A}}}]\n", "credentials"},
		"address written":  {"notifications: [{name: a, slack: {url: 'https://hooks/hunter2'}}]\n", "1:"},
		"no such state":    {"notifications: [{name: a, states: [done], slack: {url: {env: A}}}]\n", "rolled_back"},
		"no environment":   {"notifications: [{name: a, environments: [moon], slack: {url: {env: A}}}]\n", "moon"},
		"waves of nothing": {"environments: {p: {waves: [[a]]}}\n", "need clusters"},
		"cluster twice":    {"environments: {p: {clusters: [{name: a, context: x}, {name: a}]}}\n", "is taken"},
		"one cluster":      {"environments: {p: {clusters: [{name: a}, {name: b}]}}\n", "the same namespace"},
		"unknown cluster":  {"environments: {p: {clusters: [{name: a}], waves: [[b]]}}\n", "no cluster \"b\""},
		"in two waves":     {"environments: {p: {clusters: [{name: a}], waves: [[a], [a]]}}\n", "in two waves"},
		"forgotten":        {"environments: {p: {clusters: [{name: a}, {name: b, context: y}], waves: [[a]]}}\n", "1 of 2"},
		"what on failure":  {"environments: {p: {clusters: [{name: a}], on-failure: cry}}\n", "roll-back or stop"},
		"window":           {"environments: {p: {rollback-window: {revisions: -1}}}\n", "rollback-window"},
		"branch pattern":   {"environments: {p: {branches: ['[']}}\n", "branches[0]"},
		"no deployer":      {"environments: {p: {deployers: ['']}}\n", "deployers[0]"},
		"negative":         {"limits: {stages: -1}\n", "negative"},
		"a secret written": {"repositories: [{name: o/s, webhook-secret: hunter2}]\n", "1:44"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("server.yaml", []byte(test.file))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want an error with %q", err, test.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Fatalf("the error shows a secret: %v", err)
			}
		})
	}
}

func TestLoadResolvesPathsAndSecrets(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "hook", "s3cret-value\n")
	write(t, dir, "server.yaml", `data: state
repositories:
  - name: octo/shop
    webhook-secret: {file: hook}
    ssh-key: {file: hook}
    known-hosts: hosts
    secrets: {TOKEN: {file: hook}, OTHER: {env: SETTINGS_TEST_EMPTY}}
environments: {staging: {kubeconfig: kube/config}}
`)
	s, err := Load(filepath.Join(dir, "server.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Data != filepath.Join(dir, "state") || s.Environments["staging"].Kubeconfig != filepath.Join(dir, "kube/config") || s.Environments["staging"].Namespace != "default" {
		t.Fatalf("paths: %+v", s)
	}
	repository := s.Repositories[0]
	if repository.KnownHosts != filepath.Join(dir, "hosts") {
		t.Fatalf("known hosts: %s", repository.KnownHosts)
	}
	for _, secret := range []Secret{repository.WebhookSecret, repository.SSHKey, repository.Secrets["TOKEN"]} {
		if value, err := secret.Value(); err != nil || value != "s3cret-value" {
			t.Fatalf("secret: %q, %v", value, err)
		}
	}
	if _, err := repository.Secrets["OTHER"].Value(); err == nil || !strings.Contains(err.Error(), "SETTINGS_TEST_EMPTY") {
		t.Fatalf("an empty secret was accepted: %v", err)
	}
}

func TestFreezeWindows(t *testing.T) {
	parse := func(window string) error {
		_, err := Parse("server.yaml", []byte("environments: {production: {freeze: ["+window+"]}}"))
		return err
	}
	for _, window := range []string{
		`{cron: "0 16 * * 5", duration: 64h, zone: Europe/Berlin, reason: weekend}`, `{from: 2026-12-20, until: 2027-01-03}`,
		`{from: "2026-12-20T08:00", until: "2026-12-20T18:00", zone: America/New_York}`,
	} {
		if err := parse(window); err != nil {
			t.Errorf("%s: %v", window, err)
		}
	}
	for window, says := range map[string]string{
		`{}`: "give cron and duration", `{cron: "* * * *", duration: 1h}`: "cron", `{cron: "* * * * *", duration: 1h, zone: Mars}`: "Mars",
		`{from: 20.12.2026, until: 2027-01-03}`: "write it like", `{from: 2027-01-03, until: 2026-12-20}`: "after from", `{cron: "* * * * *", duration: 1h, from: 2026-12-20}`: "not both",
	} {
		if err := parse(window); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "environment production: freeze[0]") {
			t.Errorf("%s: %v", window, err)
		}
	}
	window, err := Freeze{From: "2026-12-20", Until: "2027-01-03T12:30", Zone: "Europe/Berlin"}.Window()
	if err != nil || window.From.UTC().String() != "2026-12-19 23:00:00 +0000 UTC" || window.Until.UTC().String() != "2027-01-03 11:30:00 +0000 UTC" {
		t.Errorf("in the zone: %v, %v", window, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("listen: 127.0.0.1:0\nrepositories: [{name: a/b, webhook-secret: {env: X}}]\n"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = Parse("fuzz", data)
	})
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
