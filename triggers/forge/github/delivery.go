// Package github speaks with GitHub and GitHub Enterprise: deliveries of
// webhooks in, commit statuses out.
package github

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/tidegate-ci/tidegate/triggers/inbox"
)

// Name is this forge's name in events.
const Name = "github"

// Headers of a delivery (docs.github.com, "Delivery headers").
const (
	HeaderDelivery  = "X-GitHub-Delivery"
	HeaderEvent     = "X-GitHub-Event"
	HeaderSignature = "X-Hub-Signature-256"
	headerSHA1      = "X-Hub-Signature"
)

const (
	signaturePrefix = "sha256="
	maxDeliveryID   = 64
	maxEventName    = 64
	maxFullName     = 200 // GitHub allows 39 for the owner and 100 for the name
)

// Forge reads GitHub's deliveries. The zero value is ready.
type Forge struct{}

var _ inbox.Forge = Forge{}

type delivery struct {
	id, event string
	signature []byte
	form      bool
}

// Open implements inbox.Forge.
func (Forge) Open(header http.Header) (inbox.Delivery, error) {
	d := delivery{id: header.Get(HeaderDelivery), event: header.Get(HeaderEvent)}
	if !plainName(d.id, maxDeliveryID) {
		return nil, inbox.Refusef(http.StatusBadRequest, "the %s header is missing or is no id", HeaderDelivery)
	}
	if !plainName(d.event, maxEventName) {
		return nil, inbox.Refusef(http.StatusBadRequest, "the %s header is missing or names no event", HeaderEvent)
	}
	switch media, _, err := mime.ParseMediaType(header.Get("Content-Type")); {
	case err == nil && media == "application/json":
	case err == nil && media == "application/x-www-form-urlencoded":
		d.form = true
	default:
		return nil, inbox.Refusef(http.StatusUnsupportedMediaType, "set the webhook's content type to application/json")
	}
	signature := header.Get(HeaderSignature)
	if signature == "" {
		if header.Get(headerSHA1) != "" {
			return nil, inbox.Refusef(http.StatusUnauthorized, "the delivery is signed with SHA-1 only: %s is needed", HeaderSignature)
		}
		return nil, inbox.Refusef(http.StatusUnauthorized, "the delivery is not signed: set a secret at the webhook")
	}
	digits, ok := strings.CutPrefix(signature, signaturePrefix)
	mac, err := hex.DecodeString(digits)
	if !ok || err != nil || len(mac) != sha256.Size {
		return nil, inbox.Refusef(http.StatusUnauthorized, "the %s header is no SHA-256 signature", HeaderSignature)
	}
	d.signature = mac
	return d, nil
}

// plainName tells whether s could be an id or event name: letters, digits, '-'
// and '_'. In particular it is never the id of another trigger, which has a colon.
func plainName(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// ID implements inbox.Delivery.
func (d delivery) ID() string { return d.id }

// Verify implements inbox.Delivery. An empty secret verifies nothing.
func (d delivery) Verify(body, secret []byte) bool {
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	return hmac.Equal(mac.Sum(nil), d.signature) && len(secret) > 0
}

// Sign returns the value of HeaderSignature for a body, as GitHub would send it.
func Sign(body, secret []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	return signaturePrefix + hex.EncodeToString(mac.Sum(nil))
}

// RepositoryName implements inbox.Delivery.
func (d delivery) RepositoryName(body []byte) (string, error) {
	payload, err := d.payload(body)
	if err != nil {
		return "", err
	}
	var about struct {
		Repository struct {
			FullName string `json:"full_name"`
		} `json:"repository"`
	}
	if err := json.Unmarshal(payload, &about); err != nil {
		return "", inbox.Refusef(http.StatusBadRequest, "the payload is not the JSON of a delivery")
	}
	name := about.Repository.FullName
	if name == "" && d.event == "ping" {
		return "", nil // a hook of an organisation
	}
	if !validFullName(name) {
		return "", inbox.Refusef(http.StatusBadRequest, "the payload names no repository")
	}
	return name, nil
}

// validFullName tells whether s has the form owner/name, as GitHub allows it.
func validFullName(s string) bool {
	owner, name, ok := strings.Cut(s, "/")
	if !ok || len(s) > maxFullName || name == "." || name == ".." {
		return false
	}
	return plainName(owner, maxFullName) && plainName(strings.ReplaceAll(name, ".", "-"), maxFullName)
}

// payload is the JSON in the body.
func (d delivery) payload(body []byte) ([]byte, error) {
	if !d.form {
		return body, nil
	}
	values, err := url.ParseQuery(string(body))
	if err != nil || len(values["payload"]) != 1 {
		return nil, inbox.Refusef(http.StatusBadRequest, "the form has no payload field: set the webhook's content type to application/json")
	}
	return []byte(values.Get("payload")), nil
}
