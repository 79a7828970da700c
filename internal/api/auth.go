package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"
)

type identityKey struct{}

// identityOf is whom the request's token stands for; route put it there.
func identityOf(ctx context.Context) Identity {
	identity, _ := ctx.Value(identityKey{}).(Identity)
	return identity
}

// mayAnswer tells whether an identity is among those an approval asks. Nobody
// named means anybody who may operate.
func mayAnswer(identity Identity, from []string) bool {
	if len(from) == 0 {
		return true
	}
	return slices.ContainsFunc(from, func(name string) bool {
		return name == identity.User || slices.Contains(identity.Groups, name)
	})
}

func splitPattern(pattern string) (method, path string) {
	method, path, _ = strings.Cut(pattern, " ")
	return method, path
}

// route wraps a handler: it finds out who asks, checks the role, bounds the
// body and writes the error.
func (h *handler) route(role Role, serve func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		identity, err := h.authenticate(r)
		if err == nil && !identity.Role.Includes(role) {
			h.Log.Warn("API request refused", zap.String("user", identity.User), zap.String("token", identity.Token),
				zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.String("needs", string(role)))
			err = failf(CodeRefused, "ask an admin for a token with role "+string(role),
				"token %q has role %s, which may not do this", identity.Token, identity.Role)
		}
		if err == nil {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			err = serve(w, r.WithContext(context.WithValue(r.Context(), identityKey{}, identity)))
		}
		if err != nil {
			h.writeError(w, r, err)
		}
	})
}

func (h *handler) authenticate(r *http.Request) (Identity, error) {
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if secret = strings.TrimSpace(secret); secret == "" || !strings.EqualFold(scheme, "Bearer") {
		return Identity{}, failf(CodeUnauthenticated, "send a token as 'Authorization: Bearer …'", "no token was sent")
	}
	identity, ok, err := h.Tokens.Authenticate(secret)
	if err != nil {
		return Identity{}, err
	}
	if !ok {
		h.Log.Warn("API token not accepted", zap.String("remote", r.RemoteAddr), zap.String("path", r.URL.Path))
		return Identity{}, failf(CodeUnauthenticated, "it may be mistyped, revoked or expired: ask an admin for a new one", "the token is not accepted")
	}
	return identity, nil
}

// audit records who changed what. It is called once the change was accepted.
func (h *handler) audit(r *http.Request, action string, fields ...zap.Field) {
	identity := identityOf(r.Context())
	h.Log.Info("audit", append([]zap.Field{
		zap.String("action", action),
		zap.String("user", identity.User),
		zap.String("token", identity.Token),
		zap.String("remote", r.RemoteAddr),
	}, fields...)...)
}

// readBody decodes a strict JSON body. An empty one leaves value as it is.
func readBody(r *http.Request, value any) error {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("reading the body: %w", err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	// Browsers can't send JSON to another site without asking first.
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return failf(CodeInvalid, "send it with Content-Type: application/json", "the body is not declared as JSON")
	}
	if err := strictJSON(data, value); err != nil {
		return failf(CodeInvalid, "", "the body is not what this route takes: %s", err)
	}
	return nil
}

// strictJSON decodes exactly one value without unknown fields.
func strictJSON(data []byte, value any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(value); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the first JSON value")
	}
	return nil
}
