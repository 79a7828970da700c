package rollout

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/tidegate-ci/tidegate/internal/netguard"
	"github.com/tidegate-ci/tidegate/rollout/analysis"
)

// Limits of one question to a webhook.
const (
	webhookTimeout   = 10 * time.Second
	maxWebhookAnswer = 64 << 10
)

// HeaderSignature carries "sha256=" and the hexadecimal HMAC-SHA256 of a
// webhook's body, by the key that the gate names.
const HeaderSignature = "X-Tidegate-Signature-256"

// WebhookQuestion is what a webhook gate is asked, as JSON in a POST.
type WebhookQuestion struct {
	Gate      string `json:"gate"`
	App       string `json:"app"`
	Namespace string `json:"namespace"`
	Revision  int    `json:"revision"`
	Base      int    `json:"base"` // the revision that serves beside it
	Step      int    `json:"step"`
	Weight    int    `json:"weight"`
	Commit    string `json:"commit,omitempty"`
	By        string `json:"by,omitempty"`
	// Images are those of the release, Addresses where its pods of this step serve.
	Images    []string `json:"images"`
	Addresses []string `json:"addresses"`
	// Attempt counts questions of this step from 1. At is signed too, so that a
	// question that was overheard is of no use later.
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
}

// WebhookAnswer is what it answers with. Result is pass, fail or wait.
type WebhookAnswer struct {
	Result  string          `json:"result"`
	Message string          `json:"message"`
	Facts   json.RawMessage `json:"facts"`
}

func (g *WebhookGate) check() error {
	if g.Interval == 0 {
		g.Interval = DefaultWebhookInterval
	}
	u, err := url.Parse(g.URL)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return errors.New("url: want http://HOST/… or https://HOST/…")
	case u.User != nil:
		return fmt.Errorf("url of %s: credentials don't belong into it; name a Secret, which signs the request", u.Host)
	case g.Interval < MinWebhookInterval || g.Interval > MaxHold:
		return fmt.Errorf("interval %s: use %s to %s", g.Interval, MinWebhookInterval, MaxHold)
	case g.Secret != nil && (g.Secret.Name == "" || g.Secret.Key == ""):
		return errors.New("secret: give the name of a Secret and a key in it")
	}
	return nil
}

// webhookClient makes a client that reaches only addresses that allow likes,
// and takes a redirect for an answer.
func webhookClient(allow func(netip.Addr) bool) *http.Client {
	return netguard.Client(allow, webhookTimeout)
}

// askWebhook asks once. An error says that there was no answer.
func askWebhook(ctx context.Context, client *http.Client, address, key string, question WebhookQuestion) (WebhookAnswer, error) {
	var answer WebhookAnswer
	body, err := json.Marshal(question)
	if err != nil {
		return answer, fmt.Errorf("encoding the question: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return answer, errors.New("the address makes no request")
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "tidegate")
	if key != "" {
		request.Header.Set(HeaderSignature, Sign(key, body))
	}
	response, err := client.Do(request)
	if err != nil {
		// Without the URL: its query may hold what is not for the record.
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return answer, fmt.Errorf("asking %s: %w", request.URL.Host, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return answer, fmt.Errorf("%s answers %s; want 200", request.URL.Host, response.Status)
	}
	said, err := io.ReadAll(io.LimitReader(response.Body, maxWebhookAnswer+1))
	if err != nil {
		return answer, fmt.Errorf("reading the answer of %s: %w", request.URL.Host, err)
	}
	if len(said) > maxWebhookAnswer {
		return answer, fmt.Errorf("the answer of %s is larger than %d bytes", request.URL.Host, maxWebhookAnswer)
	}
	answer, err = parseAnswer(said)
	if err != nil {
		return answer, fmt.Errorf("the answer of %s: %w", request.URL.Host, err)
	}
	return answer, nil
}

// parseAnswer reads what a webhook answered.
func parseAnswer(said []byte) (WebhookAnswer, error) {
	var answer WebhookAnswer
	if err := json.Unmarshal(said, &answer); err != nil {
		return WebhookAnswer{}, fmt.Errorf("not JSON as expected: %w", err)
	}
	switch answer.Result {
	case "pass", "fail", "wait":
	default:
		return WebhookAnswer{}, fmt.Errorf("result is %q; want pass, fail or wait", clipText(answer.Result))
	}
	answer.Message = clipText(answer.Message)
	if len(answer.Facts) > maxCheckText {
		return WebhookAnswer{}, fmt.Errorf("facts are %d bytes; at most %d", len(answer.Facts), maxCheckText)
	}
	return answer, nil
}

// Sign is the value of HeaderSignature for a body.
func Sign(key string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// verdict is what an answer means for the gate.
func (a WebhookAnswer) verdict() (analysis.Outcome, string) {
	outcome, why := analysis.Inconclusive, "it says wait"
	switch a.Result {
	case "pass":
		outcome, why = analysis.Pass, "it says pass"
	case "fail":
		outcome, why = analysis.Fail, "it says fail"
	}
	if a.Message != "" {
		why += ": " + a.Message
	}
	return outcome, why
}
