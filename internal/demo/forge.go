package demo

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/google/go-github/v60/github"
)

// Forge stands in for github.com on this machine: a Git repository that can be
// pushed to, webhooks signed as GitHub signs them, and the parts of the API that
// Tidegate uses: commit statuses, deployments, commits and pull requests.
type Forge struct {
	// FullName is the repository's owner/name.
	FullName string
	// Secret signs the webhooks.
	Secret string
	// API is the base URL of the commit status API.
	API string

	dir        string
	repository *git.Repository
	server     *http.Server
	served     chan struct{}

	mu       sync.Mutex
	statuses []CommitStatus
	changed  chan struct{}
	hub      hub
}

// CommitStatus is one that Tidegate reported.
type CommitStatus struct {
	Commit      string
	Context     string `json:"context"`
	State       string `json:"state"`
	Description string `json:"description"`
	TargetURL   string `json:"target_url"`
}

// NewForge creates an empty repository below dir and starts the status API on
// loopback. Close stops it.
func NewForge(ctx context.Context, dir, fullName string) (*Forge, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("make a webhook secret: %w", err)
	}
	repository, err := git.PlainInitWithOptions(dir, &git.PlainInitOptions{
		InitOptions: git.InitOptions{DefaultBranch: plumbing.NewBranchReferenceName("main")},
	})
	if err != nil {
		return nil, fmt.Errorf("create the Git repository %s: %w", dir, err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for commit statuses: %w", err)
	}
	forge := &Forge{
		FullName:   fullName,
		Secret:     hex.EncodeToString(secret),
		API:        "http://" + listener.Addr().String() + "/",
		dir:        dir,
		repository: repository,
		served:     make(chan struct{}),
		changed:    make(chan struct{}),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /repos/{owner}/{name}/statuses/{commit}", forge.receiveStatus)
	forge.serveHub(mux)
	forge.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		defer close(forge.served)
		_ = forge.server.Serve(listener) // ends by Close
	}()
	return forge, nil
}

// Close stops the status API. The repository's files stay.
func (f *Forge) Close() error {
	err := f.server.Close()
	<-f.served
	return err
}

// CloneURL is where Tidegate fetches the source.
func (f *Forge) CloneURL() string { return "file://" + f.dir }

func (f *Forge) receiveStatus(w http.ResponseWriter, r *http.Request) {
	status := CommitStatus{Commit: r.PathValue("commit")}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&status); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.statuses = append(f.statuses, status)
	close(f.changed)
	f.changed = make(chan struct{})
	f.mu.Unlock()
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, `{"id":1}`)
}

// Statuses returns what was reported for a commit so far, oldest first.
func (f *Forge) Statuses(commit string) []CommitStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	var of []CommitStatus
	for _, status := range f.statuses {
		if status.Commit == commit {
			of = append(of, status)
		}
	}
	return of
}

// WaitStatus returns the first final status (success, failure or error) of a commit.
func (f *Forge) WaitStatus(ctx context.Context, commit string) (CommitStatus, error) {
	for {
		f.mu.Lock()
		changed := f.changed
		f.mu.Unlock()
		for _, status := range f.Statuses(commit) {
			if status.State != "pending" {
				return status, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return CommitStatus{}, fmt.Errorf("wait for the final status of commit %.12s (so far: %v): %w", commit, f.Statuses(commit), context.Cause(ctx))
		}
	}
}

// Commit writes the files (content by path; nil content removes) and commits
// them to main. It returns the commit's hash.
func (f *Forge) Commit(message string, files map[string][]byte) (string, error) {
	tree, err := f.repository.Worktree()
	if err != nil {
		return "", fmt.Errorf("open the work tree: %w", err)
	}
	for path, content := range files {
		full := filepath.Join(f.dir, path)
		if content == nil {
			if err := os.Remove(full); err != nil {
				return "", fmt.Errorf("remove %s: %w", path, err)
			}
		} else {
			if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
				return "", fmt.Errorf("write %s: %w", path, err)
			}
			if err := os.WriteFile(full, content, 0o644); err != nil {
				return "", fmt.Errorf("write %s: %w", path, err)
			}
		}
		if _, err := tree.Add(path); err != nil {
			return "", fmt.Errorf("stage %s: %w", path, err)
		}
	}
	hash, err := tree.Commit(message, &git.CommitOptions{
		Author: &object.Signature{Name: "Dana Developer", Email: "dana@example.com", When: time.Now()},
	})
	if err != nil {
		return "", fmt.Errorf("commit %q: %w", message, err)
	}
	return hash.String(), nil
}

// Read returns a file of the work tree.
func (f *Forge) Read(path string) ([]byte, error) {
	return os.ReadFile(filepath.Join(f.dir, path))
}

// PushPayload is the body GitHub sends when commit was pushed to main.
func (f *Forge) PushPayload(commit string) ([]byte, error) {
	c, err := f.repository.CommitObject(plumbing.NewHash(commit))
	if err != nil {
		return nil, fmt.Errorf("read commit %s: %w", commit, err)
	}
	before := strings.Repeat("0", 40)
	var added, removed, modified []string
	if parent, err := c.Parent(0); err == nil {
		before = parent.Hash.String()
		patch, err := parent.Patch(c)
		if err != nil {
			return nil, fmt.Errorf("compare %s with its parent: %w", commit, err)
		}
		for _, file := range patch.FilePatches() {
			switch from, to := file.Files(); {
			case from == nil:
				added = append(added, to.Path())
			case to == nil:
				removed = append(removed, from.Path())
			default:
				modified = append(modified, to.Path())
			}
		}
	}
	owner, name, _ := strings.Cut(f.FullName, "/")
	head := &github.HeadCommit{
		ID: &commit, Message: &c.Message, Added: added, Removed: removed, Modified: modified,
		Author: &github.CommitAuthor{Name: &c.Author.Name, Email: &c.Author.Email, Login: github.String("dana")},
	}
	return json.Marshal(&github.PushEvent{
		Ref: github.String("refs/heads/main"), Before: &before, After: &commit,
		HeadCommit: head, Commits: []*github.HeadCommit{head},
		Created: github.Bool(before == strings.Repeat("0", 40)), Deleted: github.Bool(false), Forced: github.Bool(false),
		Repo: &github.PushEventRepository{
			Name: &name, FullName: &f.FullName, CloneURL: github.String(f.CloneURL()), DefaultBranch: github.String("main"),
			Owner: &github.User{Login: &owner, Name: &owner},
		},
		Pusher: &github.CommitAuthor{Name: github.String("dana")},
		Sender: &github.User{Login: github.String("dana")},
	})
}

// Sign is the X-Hub-Signature-256 of a body.
func (f *Forge) Sign(body []byte) string {
	mac := hmac.New(sha256.New, []byte(f.Secret))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// HookRequest is a signed delivery of a push; tests bend it out of shape.
func (f *Forge) HookRequest(ctx context.Context, server, delivery string, body []byte) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, server+"/hooks/github", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-GitHub-Event", "push")
	request.Header.Set("X-GitHub-Delivery", delivery)
	request.Header.Set("X-Hub-Signature-256", f.Sign(body))
	return request, nil
}

// Push announces a commit to the server and demands that it is accepted.
func (f *Forge) Push(ctx context.Context, server, commit string) error {
	body, err := f.PushPayload(commit)
	if err != nil {
		return err
	}
	request, err := f.HookRequest(ctx, server, "delivery-"+commit, body)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("deliver the webhook: %w", err)
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	if response.StatusCode != http.StatusAccepted {
		return fmt.Errorf("the webhook was answered with %s: %s", response.Status, bytes.TrimSpace(answer))
	}
	return nil
}
