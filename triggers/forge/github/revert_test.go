package github_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/triggers/forge/github"
)

// forge answers as GitHub's REST API does, about a real Git repository.
type forge struct {
	*testing.T
	repository *git.Repository
	dir        string
	client     *github.Client

	mu    sync.Mutex
	pulls []map[string]any
	made  []string // method and path of every write
	fail  map[string]int
}

func newForge(t *testing.T) *forge {
	f := &forge{T: t, dir: t.TempDir(), fail: map[string]int{}}
	var err error
	f.repository, err = git.PlainInitWithOptions(f.dir, &git.PlainInitOptions{InitOptions: git.InitOptions{DefaultBranch: plumbing.NewBranchReferenceName("main")}})
	require.NoError(t, err)
	server := httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(server.Close)
	f.client, err = github.NewClient(github.ClientConfig{BaseURL: server.URL, Token: "ghp_secret",
		Sleep: func(context.Context, time.Duration) error { return nil }})
	require.NoError(t, err)
	return f
}

// commit puts a file on main and returns the commit.
func (f *forge) commit(content string) string {
	tree, err := f.repository.Worktree()
	require.NoError(f, err)
	require.NoError(f, os.WriteFile(filepath.Join(f.dir, "shop.txt"), []byte(content), 0o600))
	_, err = tree.Add("shop.txt")
	require.NoError(f, err)
	hash, err := tree.Commit("change to "+content, &git.CommitOptions{AllowEmptyCommits: true, Author: &object.Signature{Name: "ann", Email: "ann@example.com", When: time.Unix(1, 0)}})
	require.NoError(f, err)
	return hash.String()
}

func (f *forge) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/repos/octo/shop/")
	if r.Method != http.MethodGet {
		f.made = append(f.made, r.Method+" "+path)
	}
	if f.fail[r.Method+" "+path] > 0 {
		f.fail[r.Method+" "+path]--
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	say := func(status int, value any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(value)
	}
	var body map[string]any
	if r.Method == http.MethodPost {
		require.NoError(f, json.NewDecoder(r.Body).Decode(&body))
	}
	switch {
	case path == "pulls" && r.Method == http.MethodGet:
		require.Equal(f, "all", r.URL.Query().Get("state"))
		found := []map[string]any{}
		for _, pull := range f.pulls {
			if head, _ := pull["head"].(map[string]any); "octo:"+head["ref"].(string) == r.URL.Query().Get("head") {
				found = append(found, pull)
			}
		}
		say(http.StatusOK, found)
	case path == "pulls":
		pull := map[string]any{"html_url": "https://forge/pull/1", "title": body["title"], "body": body["body"], "base": map[string]any{"ref": body["base"]}, "head": map[string]any{"ref": body["head"]}}
		f.pulls = append(f.pulls, pull)
		say(http.StatusCreated, pull)
	case strings.HasPrefix(path, "git/ref/"):
		ref, err := f.repository.Reference(plumbing.ReferenceName("refs/"+strings.TrimPrefix(path, "git/ref/")), true)
		if err != nil {
			say(http.StatusNotFound, map[string]any{"message": "Not Found"})
			return
		}
		say(http.StatusOK, map[string]any{"ref": ref.Name().String(), "object": map[string]any{"sha": ref.Hash().String()}})
	case path == "git/refs":
		ref := plumbing.NewHashReference(plumbing.ReferenceName(body["ref"].(string)), plumbing.NewHash(body["sha"].(string)))
		require.NoError(f, f.repository.Storer.SetReference(ref))
		say(http.StatusCreated, map[string]any{"ref": body["ref"]})
	case strings.HasPrefix(path, "git/commits/"):
		commit, err := f.repository.CommitObject(plumbing.NewHash(strings.TrimPrefix(path, "git/commits/")))
		if err != nil {
			say(http.StatusNotFound, map[string]any{"message": "Not Found"})
			return
		}
		say(http.StatusOK, map[string]any{"sha": commit.Hash.String(), "tree": map[string]any{"sha": commit.TreeHash.String()}})
	case path == "git/commits":
		parents := []plumbing.Hash{}
		for _, parent := range body["parents"].([]any) {
			parents = append(parents, plumbing.NewHash(parent.(string)))
		}
		signature := object.Signature{Name: "tidegate", Email: "t@example.com", When: time.Unix(2, 0)}
		commit := object.Commit{Message: body["message"].(string), TreeHash: plumbing.NewHash(body["tree"].(string)), ParentHashes: parents, Author: signature, Committer: signature}
		encoded := f.repository.Storer.NewEncodedObject()
		require.NoError(f, commit.Encode(encoded))
		hash, err := f.repository.Storer.SetEncodedObject(encoded)
		require.NoError(f, err)
		say(http.StatusCreated, map[string]any{"sha": hash.String()})
	case strings.HasPrefix(path, "compare/"):
		base, head, _ := strings.Cut(strings.TrimPrefix(path, "compare/"), "...")
		say(http.StatusOK, map[string]any{"status": f.relation(base, head)})
	default:
		say(http.StatusNotFound, map[string]any{"message": "no such path " + path})
	}
}

func (f *forge) relation(base, head string) string {
	a, err := f.repository.CommitObject(plumbing.NewHash(base))
	require.NoError(f, err)
	b, err := f.repository.CommitObject(plumbing.NewHash(head))
	require.NoError(f, err)
	if before, err := a.IsAncestor(b); err == nil && before {
		return "ahead"
	}
	return "diverged"
}

func (f *forge) revert(failed, good string) github.Revert {
	return github.Revert{Repository: "octo/shop", Branch: "main", Failed: failed, Good: good, Head: "tidegate/revert-x", Title: "Revert it", Body: "because", Message: "Revert it\n\nbecause"}
}

// The proposed commit stands on the failed one and holds the files of the one
// that was verified, however many commits are between; and there is one only.
func TestRevertIsProposedOnce(t *testing.T) {
	f := newForge(t)
	good := f.commit("good")
	f.commit("never released")
	failed := f.commit("bad")
	f.fail["POST git/commits"], f.fail["GET pulls"] = 2, 1 // a server that is away for a moment
	for range 3 {
		address, err := f.client.Revert(t.Context(), f.revert(failed, good))
		require.NoError(t, err)
		require.Equal(t, "https://forge/pull/1", address)
	}
	require.Len(t, f.pulls, 1)
	require.Equal(t, "main", f.pulls[0]["base"].(map[string]any)["ref"])
	ref, err := f.repository.Reference("refs/heads/tidegate/revert-x", true)
	require.NoError(t, err)
	commit, err := f.repository.CommitObject(ref.Hash())
	require.NoError(t, err)
	require.Equal(t, []plumbing.Hash{plumbing.NewHash(failed)}, commit.ParentHashes)
	file, err := commit.File("shop.txt")
	require.NoError(t, err)
	content, err := file.Contents()
	require.NoError(t, err)
	require.Equal(t, "good", content)
	main, err := f.repository.Reference("refs/heads/main", true)
	require.NoError(t, err)
	require.Equal(t, failed, main.Hash().String(), "the branch itself is not touched")
}

// A process that died between two writes leaves what the next one goes on with.
func TestRevertGoesOn(t *testing.T) {
	f := newForge(t)
	good, failed := f.commit("good"), f.commit("bad")
	f.fail["POST pulls"] = 100
	_, err := f.client.Revert(t.Context(), f.revert(failed, good))
	require.Error(t, err)
	require.NotErrorIs(t, err, github.ErrCannotRevert, "tried again later")
	f.commit("somebody goes on")
	f.fail["POST pulls"] = 0
	f.made = nil
	_, err = f.client.Revert(t.Context(), f.revert(failed, good))
	require.NoError(t, err)
	require.Equal(t, []string{"POST pulls"}, f.made, "commit and branch were made already")
}

func TestWhatCannotBeReverted(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(f *forge) github.Revert
		says    string
	}{
		"the branch moved on": {func(f *forge) github.Revert {
			good, failed := f.commit("good"), f.commit("bad")
			f.commit("newer")
			return f.revert(failed, good)
		}, "git revert"},
		"the branch is gone": {func(f *forge) github.Revert {
			r := f.revert(f.commit("good"), f.commit("bad"))
			r.Branch = "gone"
			return r
		}, "is gone"},
		"no ancestor": {func(f *forge) github.Revert {
			good := f.commit("good")
			return f.revert(good, f.other())
		}, "no ancestor"},
		"same files": {func(f *forge) github.Revert {
			good := f.commit("good")
			return f.revert(f.commit("good"), good)
		}, "another cause"},
		"no commit": {func(f *forge) github.Revert { return f.revert(f.commit("good"), "main; rm -rf /") }, "is not a commit"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForge(t)
			_, err := f.client.Revert(t.Context(), test.prepare(f))
			require.ErrorIs(t, err, github.ErrCannotRevert)
			require.ErrorContains(t, err, test.says)
			require.Empty(t, f.made, "nothing was written")
			require.NotContains(t, err.Error(), "ghp_secret")
		})
	}
}

// other is a commit that no branch holds.
func (f *forge) other() string {
	head, err := f.repository.Head()
	require.NoError(f, err)
	commit, err := f.repository.CommitObject(head.Hash())
	require.NoError(f, err)
	signature := object.Signature{Name: "x", Email: "x@example.com", When: time.Unix(3, 0)}
	encoded := f.repository.Storer.NewEncodedObject()
	require.NoError(f, (&object.Commit{Message: "other", TreeHash: commit.TreeHash, Author: signature, Committer: signature}).Encode(encoded))
	hash, err := f.repository.Storer.SetEncodedObject(encoded)
	require.NoError(f, err)
	return hash.String()
}

func TestDeployments(t *testing.T) {
	const commit = "0123456789012345678901234567890123456789"
	var made []map[string]any
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodGet && r.URL.Path == "/repos/octo/shop/deployments":
			require.Equal(t, commit, r.URL.Query().Get("sha"))
			require.Equal(t, "production", r.URL.Query().Get("environment"))
			known := []map[string]any{{"id": 7, "payload": map[string]any{"tidegate": "other"}}}
			if len(made) > 0 {
				known = append(known, map[string]any{"id": 8, "payload": `{"tidegate":"k"}`})
			}
			_ = json.NewEncoder(w).Encode(known)
		case r.Method == http.MethodPost:
			var body map[string]any
			require.NoError(t, json.NewDecoder(r.Body).Decode(&body))
			body["path"] = r.URL.Path
			made = append(made, body)
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte(`{"id": 8}`))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	client, err := github.NewClient(github.ClientConfig{BaseURL: server.URL, Token: "ghp_secret"})
	require.NoError(t, err)
	d := github.Deployment{Repository: "octo/shop", Commit: commit, Environment: "production", Key: "k", Description: "line\none"}
	for range 2 {
		id, err := client.Deployment(t.Context(), d)
		require.NoError(t, err)
		require.EqualValues(t, 8, id)
	}
	require.NoError(t, client.DeploymentStatus(t.Context(), "octo/shop", 8, github.DeploymentFailure, strings.Repeat("x", 200)))
	require.Len(t, made, 2, "one deployment, one status")
	require.Equal(t, map[string]any{"path": "/repos/octo/shop/deployments", "ref": commit, "task": "deploy", "environment": "production", "description": "line one",
		"payload": map[string]any{"tidegate": "k"}, "auto_merge": false, "required_contexts": []any{}}, made[0])
	require.Equal(t, "/repos/octo/shop/deployments/8/statuses", made[1]["path"])
	require.Equal(t, "failure", made[1]["state"])
	require.Len(t, []rune(made[1]["description"].(string)), 140)

	_, err = client.Deployment(t.Context(), github.Deployment{Repository: "octo/shop/x", Commit: commit})
	require.Error(t, err)
	_, err = client.Deployment(t.Context(), github.Deployment{Repository: "octo/gone", Commit: commit})
	require.True(t, github.Permanent(err), "%v", err)
}
