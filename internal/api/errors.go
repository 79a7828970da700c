package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// Codes of errors; part of the interface.
const (
	CodeInvalid         = "invalid"         // 400: the request makes no sense
	CodeUnauthenticated = "unauthenticated" // 401: no token, or not a good one
	CodeRefused         = "refused"         // 403: known, but not allowed
	CodeNotFound        = "not_found"       // 404
	CodeConflict        = "conflict"        // 409: too late, or done otherwise already
	CodeTooLarge        = "too_large"       // 413
	CodeInternal        = "internal"        // 500: the server's log says more
	CodeUnavailable     = "unavailable"     // 503: try again
)

var statusOf = map[string]int{
	CodeInvalid:         http.StatusBadRequest,
	CodeUnauthenticated: http.StatusUnauthorized,
	CodeRefused:         http.StatusForbidden,
	CodeNotFound:        http.StatusNotFound,
	CodeConflict:        http.StatusConflict,
	CodeTooLarge:        http.StatusRequestEntityTooLarge,
	CodeInternal:        http.StatusInternalServerError,
	CodeUnavailable:     http.StatusServiceUnavailable,
}

// Error is what a request is answered with when it fails.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	// Hint is what to do about it; empty when the message says it all.
	Hint string `json:"hint,omitempty"`
}

func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + " (" + e.Hint + ")"
}

type errorBody struct {
	Error *Error `json:"error"`
}

func failf(code, hint, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// errorFor turns an error of the engine, the journal or a handler into an
// answer. What is not known to be fit for a stranger's eyes stays in the log.
func errorFor(err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	var tooLarge *http.MaxBytesError
	var caused *pipeline.Error
	switch {
	case errors.As(err, &tooLarge):
		return failf(CodeTooLarge, "", "the body is larger than %d bytes", tooLarge.Limit)
	case errors.Is(err, journal.ErrNotFound):
		return failf(CodeNotFound, "list the runs to find its id", "no such run")
	case errors.Is(err, journal.ErrFinished):
		return failf(CodeConflict, "", "the run has finished")
	case errors.Is(err, journal.ErrFull):
		return failf(CodeUnavailable, "make room on the server's disk and try again", "the journal's storage is full; nothing was changed")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return failf(CodeUnavailable, "try again", "the request was not finished in time")
	case errors.As(err, &caused):
		switch caused.Cause {
		case pipeline.CauseInvalid:
			return failf(CodeInvalid, "", "%s", err)
		case pipeline.CauseRefused:
			return failf(CodeRefused, "", "%s", err)
		case pipeline.CauseSuperseded, pipeline.CauseCancelled:
			return failf(CodeConflict, "", "%s", err)
		}
	}
	return failf(CodeInternal, "the server's log says more", "the server could not do this")
}

func (h *handler) writeError(w http.ResponseWriter, r *http.Request, err error) {
	answer := errorFor(err)
	if answer.Code == CodeInternal && r.Context().Err() == nil {
		h.logFailure(r, err)
	}
	switch answer.Code {
	case CodeUnauthenticated:
		w.Header().Set("WWW-Authenticate", `Bearer realm="tidegate"`)
	case CodeUnavailable:
		w.Header().Set("Retry-After", "5")
	}
	h.writeJSON(w, statusOf[answer.Code], errorBody{Error: answer})
}

func (h *handler) logFailure(r *http.Request, err error) {
	h.Log.Error("API request failed", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Error(err))
}

func (h *handler) writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(value); err != nil {
		h.Log.Debug("API answer not delivered", zap.Error(err))
	}
}
