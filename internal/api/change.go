package api

import (
	"fmt"
	"net/http"
	"strings"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/internal/termtext"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

const (
	maxComment = 2000 // of a reason or comment, in bytes
	maxInputs  = 100
)

func (h *handler) startRun(w http.ResponseWriter, r *http.Request) error {
	var request StartRequest
	if err := readBody(r, &request); err != nil {
		return err
	}
	if request.Repository == "" {
		return failf(CodeInvalid, `give {"repository": "owner/name"}`, "no repository was named")
	}
	if len(request.Inputs) > maxInputs {
		return failf(CodeInvalid, "", "%d inputs are too many: at most %d", len(request.Inputs), maxInputs)
	}
	ids, err := h.Runs.Start(r.Context(), request, identityOf(r.Context()).User)
	if err != nil {
		return err
	}
	h.audit(r, "start", zap.String("repository", request.Repository), zap.String("pipeline", request.Pipeline),
		zap.String("ref", request.Ref), zap.Strings("runs", ids))
	h.writeJSON(w, http.StatusCreated, StartedRuns{IDs: ids})
	return nil
}

func (h *handler) cancelRun(w http.ResponseWriter, r *http.Request) error {
	var request CancelRequest
	if err := readBody(r, &request); err != nil {
		return err
	}
	reason, err := checkComment(request.Reason)
	if err != nil {
		return err
	}
	state, err := h.state(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	done := Done{RunID: state.RunID}
	switch {
	case state.Cancel != nil || state.Status == journal.Cancelled:
		h.writeJSON(w, http.StatusOK, done)
		return nil
	case state.Status.Final():
		return failf(CodeConflict, "", "run %s has ended already: it is %s", state.RunID, state.Status)
	}
	if err := h.Runs.Cancel(r.Context(), state.RunID, identityOf(r.Context()).User, reason); err != nil {
		return err
	}
	h.audit(r, "cancel", zap.String("run", state.RunID), zap.String("reason", reason))
	done.Changed = true
	h.writeJSON(w, http.StatusOK, done)
	return nil
}

func (h *handler) rerunRun(w http.ResponseWriter, r *http.Request) error {
	var request RerunRequest
	if err := readBody(r, &request); err != nil {
		return err
	}
	state, err := h.state(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if !state.Status.Final() {
		return failf(CodeConflict, "wait for it, or cancel it first", "run %s has not ended: it is %s", state.RunID, state.Status)
	}
	if request.FromFailed && state.Status == journal.Succeeded {
		return failf(CodeConflict, "leave fromFailed out to run all of it again", "run %s has no failed stage: it succeeded", state.RunID)
	}
	id, err := h.Runs.Rerun(r.Context(), state.RunID, identityOf(r.Context()).User, request.FromFailed)
	if err != nil {
		return err
	}
	h.audit(r, "rerun", zap.String("run", state.RunID), zap.Bool("fromFailed", request.FromFailed), zap.String("newRun", id))
	h.writeJSON(w, http.StatusCreated, StartedRuns{IDs: []string{id}})
	return nil
}

func (h *handler) decide(w http.ResponseWriter, r *http.Request) error {
	var request struct {
		// A pointer, so that a decision is never made by leaving it out.
		Approved *bool  `json:"approved"`
		Comment  string `json:"comment,omitempty"`
	}
	if err := readBody(r, &request); err != nil {
		return err
	}
	if request.Approved == nil {
		return failf(CodeInvalid, `give {"approved": true} or {"approved": false}`, "no decision was given")
	}
	comment, err := checkComment(request.Comment)
	if err != nil {
		return err
	}
	state, err := h.state(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	identity := identityOf(r.Context())
	decision := pipeline.Decision{Approved: *request.Approved, By: identity.User, Comment: comment}
	if stage := r.PathValue("stage"); rollsOut(state, stage) {
		// Whether this person is asked, and what was answered already, the rollout knows.
		if err := h.Runs.Decide(r.Context(), state.RunID, stage, decision); err != nil {
			return err
		}
		h.audit(r, "decide", zap.String("run", state.RunID), zap.String("stage", stage),
			zap.Bool("approved", decision.Approved), zap.String("comment", comment))
		h.writeJSON(w, http.StatusOK, Done{RunID: state.RunID, Stage: stage, Changed: true})
		return nil
	}
	stage, known, err := checkDecision(state, r.PathValue("stage"), identity, decision)
	if err != nil {
		if errorFor(err).Code == CodeRefused {
			h.Log.Warn("approval refused", zap.String("run", state.RunID), zap.String("stage", stage), zap.String("user", identity.User))
		}
		return err
	}
	if !known {
		if err := h.Runs.Decide(r.Context(), state.RunID, stage, decision); err != nil {
			return err
		}
		h.audit(r, "decide", zap.String("run", state.RunID), zap.String("stage", stage),
			zap.Bool("approved", decision.Approved), zap.String("comment", comment))
	}
	h.writeJSON(w, http.StatusOK, Done{RunID: state.RunID, Stage: stage, Changed: !known})
	return nil
}

// checkDecision tells which approval a decision is about and whether it may be
// made. known is true when the same was decided already.
func checkDecision(state journal.State, name string, identity Identity, decision pipeline.Decision) (stageID string, known bool, err error) {
	stageID, err = approvalStage(state, name)
	if err != nil {
		return "", false, err
	}
	stage := state.Stage(stageID)
	var from []string
	for _, planned := range state.Plan.Stages {
		if planned.ID == stageID && planned.Approve != nil {
			from = planned.Approve.From
		}
	}
	if !mayAnswer(identity, from) {
		return stageID, false, failf(CodeRefused, "ask one of them", "%q wants its answer from %s; %s is not among them",
			stageID, strings.Join(from, ", "), identity.User)
	}
	if n := len(stage.Decisions); n > 0 && stage.Decisions[n-1].Approved == decision.Approved {
		last := stage.Decisions[n-1]
		if last.By == decision.By || stage.Status.Final() {
			return stageID, true, nil
		}
	}
	if stage.Status.Final() {
		return stageID, false, failf(CodeConflict, "", "%q has ended already: it is %s", stageID, stage.Status)
	}
	if state.Status.Final() || state.Cancel != nil {
		return stageID, false, failf(CodeConflict, "", "run %s has ended or was cancelled", state.RunID)
	}
	return stageID, false, nil
}

// approvalStage resolves a stage name to the approval meant by it: itself, or
// the approval in front of it.
// rollsOut tells whether the name is that of a deploy stage that runs: an answer
// is for a gate of its rollout. The approval in front of it has been given by then.
func rollsOut(state journal.State, name string) bool {
	stage := state.Stage(name)
	return stage != nil && stage.Kind == pipeline.KindDeploy && stage.Status == journal.Running
}

func approvalStage(state journal.State, name string) (string, error) {
	var approvals []string
	for _, stage := range state.Stages {
		if stage.Kind != pipeline.KindApprove {
			continue
		}
		if stage.ID == name {
			return name, nil
		}
		approvals = append(approvals, stage.ID)
	}
	for _, id := range approvals {
		if id == name+"/approval" {
			return id, nil
		}
	}
	if len(approvals) == 0 {
		return "", failf(CodeInvalid, "", "no stage of run %s asks for approval", state.RunID)
	}
	return "", failf(CodeNotFound, "these do: "+strings.Join(approvals, ", "), "%q is no stage of run %s that asks for approval", termtext.Clean(name), state.RunID)
}

func checkComment(text string) (string, error) {
	if len(text) > maxComment {
		return "", failf(CodeInvalid, "", "the text is longer than %d bytes", maxComment)
	}
	return strings.Join(termtext.Lines(text), "\n"), nil
}

func (h *handler) listEvents(w http.ResponseWriter, r *http.Request) error {
	if h.Events == nil {
		return h.noRoute(w, r)
	}
	filter, err := parseFilter(r.URL.Query())
	if err != nil {
		return err
	}
	records, err := h.Events.List(r.Context(), filter.Repository, filter.Limit)
	if err != nil {
		return fmt.Errorf("listing events: %w", err)
	}
	if records == nil {
		records = []EventRecord{}
	}
	h.writeJSON(w, http.StatusOK, records)
	return nil
}

func (h *handler) redeliver(w http.ResponseWriter, r *http.Request) error {
	if h.Events == nil {
		return h.noRoute(w, r)
	}
	id := r.PathValue("id")
	if err := h.Events.Redeliver(r.Context(), id, identityOf(r.Context()).User); err != nil {
		return err
	}
	h.audit(r, "redeliver", zap.String("event", id))
	h.writeJSON(w, http.StatusOK, Done{Changed: true})
	return nil
}
