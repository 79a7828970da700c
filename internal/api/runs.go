package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tidegate-ci/tidegate/internal/feed"
	"github.com/tidegate-ci/tidegate/internal/termtext"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

func (h *handler) whoami(w http.ResponseWriter, r *http.Request) error {
	h.writeJSON(w, http.StatusOK, identityOf(r.Context()))
	return nil
}

func (h *handler) noRoute(_ http.ResponseWriter, r *http.Request) error {
	return failf(CodeNotFound, "", "there is no %s %s in this version of the API", r.Method, r.URL.Path)
}

func (h *handler) listRuns(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	filter, err := parseFilter(query)
	if err != nil {
		return err
	}
	follow, err := parseFlag(query, "follow")
	if err != nil {
		return err
	}
	if follow {
		return h.followList(w, r, filter)
	}
	runs, err := h.list(r.Context(), filter)
	if err != nil {
		return err
	}
	h.writeJSON(w, http.StatusOK, runs)
	return nil
}

func (h *handler) list(ctx context.Context, filter journal.Filter) ([]journal.Summary, error) {
	runs, err := h.Journal.List(ctx, filter)
	if err != nil {
		return nil, fmt.Errorf("listing runs: %w", err)
	}
	if runs == nil {
		runs = []journal.Summary{} // a list is never null
	}
	return runs, nil
}

func (h *handler) showRun(w http.ResponseWriter, r *http.Request) error {
	state, err := h.state(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	h.writeJSON(w, http.StatusOK, Run{Summary: state.Summary(), State: state})
	return nil
}

// state finds a run by its id or the beginning of it.
func (h *handler) state(ctx context.Context, id string) (journal.State, error) {
	id, entries, err := h.find(ctx, id)
	if err != nil {
		return journal.State{}, err
	}
	state := journal.Fold(entries)
	if state.Plan == nil {
		return journal.State{}, fmt.Errorf("run %s has no plan in its journal", id)
	}
	return state, nil
}

// find resolves an id, or a prefix that is unique among the newest maxList
// runs, and returns the run's entries.
func (h *handler) find(ctx context.Context, prefix string) (string, []journal.Entry, error) {
	entries, err := h.entries(ctx, prefix)
	if err == nil || !errors.Is(err, journal.ErrNotFound) {
		return prefix, entries, err
	}
	runs, err := h.Journal.List(ctx, journal.Filter{Limit: maxList})
	if err != nil {
		return "", nil, fmt.Errorf("looking for run %q: %w", prefix, err)
	}
	id, err := uniqueRun(runs, prefix)
	if err != nil {
		return "", nil, err
	}
	entries, err = h.entries(ctx, id)
	return id, entries, err
}

func (h *handler) entries(ctx context.Context, id string) ([]journal.Entry, error) {
	entries, err := h.Journal.Entries(ctx, id, 0)
	if err != nil {
		return nil, fmt.Errorf("reading run %s: %w", id, err)
	}
	if len(entries) == 0 {
		return nil, journal.ErrNotFound
	}
	return entries, nil
}

// uniqueRun picks the one run whose id begins with prefix.
func uniqueRun(runs []journal.Summary, prefix string) (string, error) {
	const shown = 5
	var ids []string
	for _, run := range runs {
		if strings.HasPrefix(run.ID, prefix) {
			ids = append(ids, run.ID)
		}
	}
	switch {
	case len(ids) == 1:
		return ids[0], nil
	case len(ids) == 0 || prefix == "":
		return "", failf(CodeNotFound, "tidegate runs list shows the runs there are", "there is no run %q", termtext.Clean(prefix))
	}
	more := ""
	if len(ids) > shown {
		more = fmt.Sprintf(" and %d more", len(ids)-shown)
		ids = ids[:shown]
	}
	return "", failf(CodeInvalid, "give more of the id", "%q may mean %s%s", termtext.Clean(prefix), strings.Join(ids, ", "), more)
}

// runLog writes the log as plain text: whole, or the part of one stage. Lines
// are as the stages wrote them; a client that shows them cleans them.
func (h *handler) runLog(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	timestamps, err := parseFlag(query, "timestamps")
	if err != nil {
		return err
	}
	state, err := h.state(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	selected, err := selectStages(state, query.Get("stage"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	control := http.NewResponseController(w)
	lines := feed.Reader{Journal: h.Journal, RunID: state.RunID, Stages: selected}
	for {
		page, err := lines.Lines(r.Context())
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		if err := h.extendDeadline(control); err != nil {
			return err
		}
		for _, line := range page {
			if _, err := io.WriteString(w, formatLine(line, len(selected) != 1, timestamps)); err != nil {
				return nil //nolint:nilerr // the client went away: nobody is left to tell
			}
		}
	}
}

func formatLine(line journal.Line, stage, timestamps bool) string {
	var b strings.Builder
	if timestamps {
		b.WriteString(line.Time.UTC().Format("2006-01-02T15:04:05.000Z "))
	}
	if stage {
		b.WriteString(line.Stage + " | ")
	}
	b.WriteString(strings.TrimRight(line.Text, "\r\n"))
	b.WriteByte('\n')
	return b.String()
}

// selectStages resolves what a person calls a stage: its id, or the name that
// the parts of a matrix share. No name means all, as nil.
func selectStages(state journal.State, name string) ([]string, error) {
	if name == "" {
		return nil, nil
	}
	var all, parts []string
	for _, stage := range state.Stages {
		if stage.ID == name {
			return []string{name}, nil
		}
		all = append(all, stage.ID)
		if strings.HasPrefix(stage.ID, name+" (") || strings.HasPrefix(stage.ID, name+"/") {
			parts = append(parts, stage.ID)
		}
	}
	if len(parts) > 0 {
		return parts, nil
	}
	const shown = 20
	if len(all) > shown {
		all = append(all[:shown:shown], "…")
	}
	return nil, failf(CodeNotFound, "its stages are: "+strings.Join(all, ", "), "run %s has no stage %q", state.RunID, termtext.Clean(name))
}

func parseFilter(query url.Values) (journal.Filter, error) {
	filter := journal.Filter{Repository: query.Get("repository"), Pipeline: query.Get("pipeline"), Limit: defaultList}
	for _, given := range query["status"] {
		for name := range strings.SplitSeq(given, ",") {
			status := journal.Status(name)
			if !slices.Contains(Statuses, status) {
				return filter, failf(CodeInvalid, "", "unknown status %q: use %s", name, joinStatuses())
			}
			filter.Status = append(filter.Status, status)
		}
	}
	if text := query.Get("limit"); text != "" {
		limit, err := strconv.Atoi(text)
		if err != nil || limit < 1 || limit > maxList {
			return filter, failf(CodeInvalid, "", "limit %q is not a number from 1 to %d", text, maxList)
		}
		filter.Limit = limit
	}
	return filter, nil
}

// Statuses are those that a list of runs can be narrowed to.
var Statuses = []journal.Status{
	journal.Pending, journal.Running, journal.Waiting, journal.Succeeded,
	journal.Failed, journal.Cancelled, journal.Skipped, journal.Refused,
}

func joinStatuses() string {
	names := make([]string, len(Statuses))
	for i, status := range Statuses {
		names[i] = string(status)
	}
	return strings.Join(names, ", ")
}

func parseFlag(query url.Values, name string) (bool, error) {
	text := query.Get(name)
	if text == "" {
		return false, nil
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, failf(CodeInvalid, "", "%s is %q: use 1 or 0", name, text)
	}
	return value, nil
}

func parseSequence(query url.Values, name string) (int64, error) {
	text := query.Get(name)
	if text == "" {
		return 0, nil
	}
	value, err := strconv.ParseInt(text, 10, 64)
	if err != nil || value < 0 {
		return 0, failf(CodeInvalid, "", "%s is %q: use the sequence number of the last one seen", name, text)
	}
	return value, nil
}
