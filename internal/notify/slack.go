package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/tidegate-ci/tidegate/internal/termtext"
	"github.com/tidegate-ci/tidegate/rollout"
)

// maxSection is how much of a text fits a block of Slack's, less some room for escapes.
const (
	maxSection = 2500
	maxLog     = 10 // lines
)

// slack writes into a channel, through an incoming webhook.
type slack struct {
	name, environment string
	url               func() (string, error)
	client            *http.Client
}

// Name implements rollout.Receiver.
func (s *slack) Name() string { return s.name }

// Tell implements rollout.Receiver.
func (s *slack) Tell(ctx context.Context, n rollout.Notification) error {
	body, err := json.Marshal(slackMessage(s.environment, n))
	if err != nil {
		return fmt.Errorf("%w: %w", rollout.ErrUndeliverable, err)
	}
	address, err := s.url()
	if err != nil {
		return fmt.Errorf("the address of the channel: %w", err)
	}
	return post(ctx, s.client, address, body, nil)
}

type slackText struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type slackBlock struct {
	Type     string      `json:"type"`
	Text     *slackText  `json:"text,omitempty"`
	Elements []slackText `json:"elements,omitempty"`
}

type slackPayload struct {
	// Text is what clients show that know no blocks, and in the list of notifications.
	Text   string       `json:"text"`
	Blocks []slackBlock `json:"blocks"`
}

// slackMessage is what people see: what happened, of what, and why.
func slackMessage(environment string, n rollout.Notification) slackPayload {
	headline := fmt.Sprintf("%s *%s* in *%s*: %s", sign(n.To), escape(n.App), escape(environment), escape(n.Text))
	p := slackPayload{Text: clip(headline, maxSection)}
	p.Blocks = append(p.Blocks, section(headline))
	if f := n.Failure; f != nil && len(f.Log) > 0 && (n.To == rollout.RollingBack || n.To == rollout.Failed) {
		log := f.Log[max(0, len(f.Log)-maxLog):]
		lines := make([]string, len(log))
		for i, line := range log {
			lines[i] = termtext.Clean(line)
		}
		// Nothing in it may end the block of code early.
		text := strings.ReplaceAll(slackLinks.Replace(strings.Join(lines, "\n")), "```", "'''")
		p.Blocks = append(p.Blocks, slackBlock{Type: "section", Text: &slackText{Type: "mrkdwn", Text: "```" + clip(text, maxSection) + "```"}})
	}
	var facts []string
	if n.Commit != "" {
		commit := "commit " + n.Commit[:min(len(n.Commit), 10)]
		if n.Source != nil && n.Source.Message != "" {
			commit += " (" + n.Source.Message + ")"
		}
		facts = append(facts, commit)
	}
	if n.By != "" {
		facts = append(facts, "by "+n.By)
	}
	if n.Promoted != nil {
		facts = append(facts, "promoted from "+n.Promoted.String())
	}
	facts = append(facts, fmt.Sprintf("tidegate rollout status %s -n %s", n.App, n.Namespace))
	p.Blocks = append(p.Blocks, slackBlock{Type: "context", Elements: []slackText{{Type: "mrkdwn", Text: clip(escape(strings.Join(facts, " · ")), maxSection)}}})
	return p
}

func section(text string) slackBlock {
	return slackBlock{Type: "section", Text: &slackText{Type: "mrkdwn", Text: clip(text, maxSection)}}
}

func sign(state rollout.State) string {
	switch state {
	case rollout.Verified:
		return ":white_check_mark:"
	case rollout.RollingBack, rollout.RolledBack:
		return ":leftwards_arrow_with_hook:"
	case rollout.Failed:
		return ":x:"
	case rollout.Withdrawing, rollout.Superseded:
		return ":fast_forward:"
	}
	return ":hourglass_flowing_sand:"
}

// escape takes the meaning out of what Slack reads as markup: links and mentions
// (&, < and >), and marks of emphasis, which get an invisible neighbour.
func escape(text string) string {
	return slackEmphasis.Replace(slackLinks.Replace(termtext.Clean(text)))
}

// wordJoiner has no width and breaks no line.
const wordJoiner = "\u2060"

var (
	slackLinks    = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	slackEmphasis = strings.NewReplacer("*", wordJoiner+"*"+wordJoiner, "_", wordJoiner+"_"+wordJoiner, "~", wordJoiner+"~"+wordJoiner, "`", wordJoiner+"`"+wordJoiner)
)

// clip bounds a text by characters and takes no escape apart.
func clip(text string, most int) string {
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	cut := string(runes[:most])
	if i := strings.LastIndexByte(cut, '&'); i >= 0 && !strings.Contains(cut[i:], ";") {
		cut = cut[:i]
	}
	return cut + "…"
}
