package settings

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/tidegate-ci/tidegate/rollout"
)

// MaxNotifications bounds how many are told of rollouts.
const MaxNotifications = 20

// Notification names one who is told of every transition of rollouts: exactly
// one of Webhook and Slack is set.
type Notification struct {
	// Name tells it from others. Under a new name it is a new receiver, which is
	// not told what happened before.
	Name    string               `yaml:"name"`
	Webhook *NotificationWebhook `yaml:"webhook,omitempty"`
	Slack   *NotificationSlack   `yaml:"slack,omitempty"`
	// Environments and States are those it is told of; empty means all.
	Environments []string `yaml:"environments,omitempty"`
	States       []string `yaml:"states,omitempty"`
	// Private lets it be in a private network or on this machine.
	Private bool `yaml:"private,omitempty"`
}

// NotificationWebhook is sent JSON.
type NotificationWebhook struct {
	URL string `yaml:"url"`
	// Secret is the key that requests are signed with, HMAC-SHA256.
	Secret Secret `yaml:"secret"`
}

// NotificationSlack is an incoming webhook of Slack, or of what understands its
// messages (Mattermost, Rocket.Chat). Its address lets anyone write: it is a secret.
type NotificationSlack struct {
	URL Secret `yaml:"url"`
}

var notificationName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func (s *Settings) checkNotifications() error {
	if len(s.Notifications) > MaxNotifications {
		return fmt.Errorf("%d notifications; at most %d", len(s.Notifications), MaxNotifications)
	}
	seen := map[string]bool{}
	for i, n := range s.Notifications {
		if !notificationName.MatchString(n.Name) {
			return fmt.Errorf("notifications[%d]: name %q: use lower-case letters, digits and -", i, n.Name)
		}
		if seen[n.Name] {
			return fmt.Errorf("notifications[%d]: the name %s is taken", i, n.Name)
		}
		seen[n.Name] = true
		if err := n.check(s.Environments); err != nil {
			return fmt.Errorf("notification %s: %w", n.Name, err)
		}
	}
	return nil
}

func (n Notification) check(environments map[string]Environment) error {
	if (n.Webhook == nil) == (n.Slack == nil) {
		return errors.New("write webhook or slack, and one of them only")
	}
	for _, name := range n.Environments {
		if _, known := environments[name]; !known {
			return fmt.Errorf("there is no environment %q", name)
		}
	}
	for _, state := range n.States {
		if !slices.Contains(rollout.States(), rollout.State(state)) {
			var known []string
			for _, s := range rollout.States() {
				known = append(known, string(s))
			}
			return fmt.Errorf("there is no state %q: use %s", state, strings.Join(known, ", "))
		}
	}
	if n.Slack != nil {
		if !n.Slack.URL.Set() {
			return errors.New("slack.url is required, by the name of an environment variable or a file: {env: …} or {file: …}")
		}
		return nil
	}
	u, err := url.Parse(n.Webhook.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return errors.New("webhook.url: want https://HOST/PATH")
	case u.User != nil:
		return errors.New("webhook.url: credentials don't belong into it; the secret signs the request")
	case !n.Webhook.Secret.Set():
		return errors.New("webhook.secret is required: make one with `openssl rand -hex 32`, put it into a file and name it as {file: …}")
	}
	return nil
}
