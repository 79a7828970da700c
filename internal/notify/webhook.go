package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/tidegate-ci/tidegate/rollout"
)

// Limits of one request.
const (
	requestTimeout = 10 * time.Second
	maxAnswer      = 4 << 10
)

// HeaderDelivery carries the notification's id: a receiver that has seen it
// before has been told already.
const HeaderDelivery = "X-Tidegate-Delivery"

// webhook sends a Message as JSON, signed as those of webhook gates are.
type webhook struct {
	name, environment string
	url               string
	key               func() (string, error)
	client            *http.Client
}

// Name implements rollout.Receiver.
func (w *webhook) Name() string { return w.name }

// Tell implements rollout.Receiver.
func (w *webhook) Tell(ctx context.Context, n rollout.Notification) error {
	body, err := json.Marshal(Message{Environment: w.environment, Notification: n})
	if err != nil {
		return fmt.Errorf("%w: %w", rollout.ErrUndeliverable, err)
	}
	key, err := w.key()
	if err != nil {
		return fmt.Errorf("the key that notifications are signed with: %w", err)
	}
	return post(ctx, w.client, w.url, body, map[string]string{rollout.HeaderSignature: rollout.Sign(key, body), HeaderDelivery: n.ID})
}

// post sends JSON. Its errors don't hold the address, which may be a secret.
func post(ctx context.Context, client *http.Client, address string, body []byte, headers map[string]string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return errors.New("the address makes no request")
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "tidegate")
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	response, err := client.Do(request)
	if err != nil {
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return fmt.Errorf("telling %s: %w", request.URL.Host, err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer)) // what it says is of no matter
	switch {
	case response.StatusCode >= 200 && response.StatusCode < 300:
		return nil
	case response.StatusCode == http.StatusBadRequest, response.StatusCode == http.StatusRequestEntityTooLarge, response.StatusCode == http.StatusGone:
		return fmt.Errorf("%w: %s answers %s", rollout.ErrUndeliverable, request.URL.Host, response.Status)
	}
	return fmt.Errorf("%s answers %s", request.URL.Host, response.Status)
}
