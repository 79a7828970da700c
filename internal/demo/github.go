package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// Deployment is one that Tidegate reported, with its states, oldest first.
type Deployment struct {
	ID          int             `json:"id"`
	Ref         string          `json:"ref"`
	Environment string          `json:"environment"`
	Payload     json.RawMessage `json:"payload"`
	States      []string        `json:"-"`
}

// PullRequest is one that Tidegate made.
type PullRequest struct {
	Title string `json:"title"`
	Body  string `json:"body"`
	Head  string `json:"head"`
	Base  string `json:"base"`
}

// hub is the part of GitHub's REST API, beside commit statuses, that Tidegate uses.
type hub struct {
	deployments []Deployment
	pulls       []PullRequest
}

// serveHub adds its routes. They answer about the real repository.
func (f *Forge) serveHub(mux *http.ServeMux) {
	locked := func(pattern string, handle func(r *http.Request, body map[string]any) (int, any)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			var body map[string]any
			if r.Method == http.MethodPost {
				if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&body); err != nil {
					http.Error(w, err.Error(), http.StatusBadRequest)
					return
				}
			}
			f.mu.Lock()
			status, answer := handle(r, body)
			f.mu.Unlock()
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(answer) // a client that is gone needs none
		})
	}
	const root = "/repos/{owner}/{name}/"
	locked("GET "+root+"deployments", f.listDeployments)
	locked("POST "+root+"deployments", f.createDeployment)
	locked("POST "+root+"deployments/{id}/statuses", f.createDeploymentStatus)
	locked("GET "+root+"pulls", f.listPulls)
	locked("POST "+root+"pulls", f.createPull)
	locked("GET "+root+"git/ref/{ref...}", f.getRef)
	locked("POST "+root+"git/refs", f.createRef)
	locked("GET "+root+"git/commits/{sha}", f.getCommit)
	locked("POST "+root+"git/commits", f.createCommit)
	locked("GET "+root+"compare/{both}", f.compare)
}

// Deployments returns what was reported so far.
func (f *Forge) Deployments() []Deployment {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Deployment(nil), f.hub.deployments...)
}

// PullRequests returns those that were made so far.
func (f *Forge) PullRequests() []PullRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]PullRequest(nil), f.hub.pulls...)
}

// ReadAt returns a file at the tip of a branch.
func (f *Forge) ReadAt(branch, path string) (string, error) {
	ref, err := f.repository.Reference(plumbing.NewBranchReferenceName(branch), true)
	if err != nil {
		return "", fmt.Errorf("branch %s: %w", branch, err)
	}
	commit, err := f.repository.CommitObject(ref.Hash())
	if err != nil {
		return "", fmt.Errorf("branch %s: %w", branch, err)
	}
	file, err := commit.File(path)
	if err != nil {
		return "", fmt.Errorf("%s at branch %s: %w", path, branch, err)
	}
	return file.Contents()
}

var notFound = map[string]string{"message": "Not Found"}

func text(body map[string]any, key string) string {
	value, _ := body[key].(string)
	return value
}

func (f *Forge) listDeployments(r *http.Request, _ map[string]any) (int, any) {
	found := []Deployment{}
	for _, d := range f.hub.deployments {
		if d.Ref == r.URL.Query().Get("sha") && d.Environment == r.URL.Query().Get("environment") {
			found = append(found, d)
		}
	}
	return http.StatusOK, found
}

func (f *Forge) createDeployment(_ *http.Request, body map[string]any) (int, any) {
	payload, err := json.Marshal(body["payload"])
	if err != nil {
		return http.StatusBadRequest, notFound
	}
	d := Deployment{ID: len(f.hub.deployments) + 1, Ref: text(body, "ref"), Environment: text(body, "environment"), Payload: payload}
	f.hub.deployments = append(f.hub.deployments, d)
	return http.StatusCreated, d
}

func (f *Forge) createDeploymentStatus(r *http.Request, body map[string]any) (int, any) {
	for i := range f.hub.deployments {
		if d := &f.hub.deployments[i]; fmt.Sprint(d.ID) == r.PathValue("id") {
			d.States = append(d.States, text(body, "state"))
			return http.StatusCreated, map[string]int{"id": len(d.States)}
		}
	}
	return http.StatusNotFound, notFound
}

func (f *Forge) listPulls(r *http.Request, _ map[string]any) (int, any) {
	found := []any{}
	for i, p := range f.hub.pulls {
		if strings.HasSuffix(r.URL.Query().Get("head"), ":"+p.Head) {
			found = append(found, map[string]any{"html_url": fmt.Sprintf("%spull/%d", f.API, i+1), "head": map[string]string{"ref": p.Head}})
		}
	}
	return http.StatusOK, found
}

func (f *Forge) createPull(_ *http.Request, body map[string]any) (int, any) {
	f.hub.pulls = append(f.hub.pulls, PullRequest{Title: text(body, "title"), Body: text(body, "body"), Head: text(body, "head"), Base: text(body, "base")})
	return http.StatusCreated, map[string]any{"html_url": fmt.Sprintf("%spull/%d", f.API, len(f.hub.pulls))}
}

func (f *Forge) getRef(r *http.Request, _ map[string]any) (int, any) {
	ref, err := f.repository.Reference(plumbing.ReferenceName("refs/"+r.PathValue("ref")), true)
	if err != nil {
		return http.StatusNotFound, notFound
	}
	return http.StatusOK, map[string]any{"ref": ref.Name().String(), "object": map[string]string{"sha": ref.Hash().String()}}
}

func (f *Forge) createRef(_ *http.Request, body map[string]any) (int, any) {
	ref := plumbing.NewHashReference(plumbing.ReferenceName(text(body, "ref")), plumbing.NewHash(text(body, "sha")))
	if err := f.repository.Storer.SetReference(ref); err != nil {
		return http.StatusUnprocessableEntity, map[string]string{"message": err.Error()}
	}
	return http.StatusCreated, map[string]any{"ref": text(body, "ref")}
}

func (f *Forge) getCommit(r *http.Request, _ map[string]any) (int, any) {
	commit, err := f.repository.CommitObject(plumbing.NewHash(r.PathValue("sha")))
	if err != nil {
		return http.StatusNotFound, notFound
	}
	return http.StatusOK, map[string]any{"sha": commit.Hash.String(), "tree": map[string]string{"sha": commit.TreeHash.String()}}
}

func (f *Forge) createCommit(_ *http.Request, body map[string]any) (int, any) {
	signature := object.Signature{Name: "tidegate", Email: "tidegate@example.com", When: time.Now()}
	commit := object.Commit{Message: text(body, "message"), TreeHash: plumbing.NewHash(text(body, "tree")), Author: signature, Committer: signature}
	parents, _ := body["parents"].([]any)
	for _, parent := range parents {
		if hash, ok := parent.(string); ok {
			commit.ParentHashes = append(commit.ParentHashes, plumbing.NewHash(hash))
		}
	}
	encoded := f.repository.Storer.NewEncodedObject()
	if err := commit.Encode(encoded); err != nil {
		return http.StatusUnprocessableEntity, map[string]string{"message": err.Error()}
	}
	hash, err := f.repository.Storer.SetEncodedObject(encoded)
	if err != nil {
		return http.StatusUnprocessableEntity, map[string]string{"message": err.Error()}
	}
	return http.StatusCreated, map[string]string{"sha": hash.String()}
}

func (f *Forge) compare(r *http.Request, _ map[string]any) (int, any) {
	base, head, _ := strings.Cut(r.PathValue("both"), "...")
	from, err := f.repository.CommitObject(plumbing.NewHash(base))
	if err != nil {
		return http.StatusNotFound, notFound
	}
	to, err := f.repository.CommitObject(plumbing.NewHash(head))
	if err != nil {
		return http.StatusNotFound, notFound
	}
	status := "diverged"
	if before, err := from.IsAncestor(to); err == nil && before {
		status = "ahead"
	}
	return http.StatusOK, map[string]string{"status": status}
}
