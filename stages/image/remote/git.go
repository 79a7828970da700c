package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/transport"
	gitdaemon "github.com/go-git/go-git/v5/plumbing/transport/git"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	sshtransport "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/tidegate-ci/tidegate/internal/gitssh"
)

// maxRefs bounds what a repository says of its refs, in bytes.
const maxRefs = 64 << 20

// largeObject is from where an object of a pack is not held in memory, in bytes.
const largeObject = 16 << 20

// session is a conversation with one repository.
type session struct {
	transport.UploadPackSession
	refs *packp.AdvRefs
	// tunnel is what SSH goes through, or nil.
	tunnel *gitssh.Tunnel
}

func (s *session) close() {
	_ = s.Close() // all has been read
	s.tunnel.Close()
}

// failure words why the conversation failed.
func (s *session) failure(ctx context.Context, err error) error {
	return gitFailure(ctx, cmp.Or(s.tunnel.Err(), err))
}

// begin connects to a repository and asks for its refs.
func (c *Client) begin(ctx context.Context, g *Git) (*session, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	if c.options.Allow != nil && g.Scheme != "https" && g.Scheme != "http" {
		return nil, fmt.Errorf("%s is refused to this build: use https", g.Scheme)
	}
	endpoint, err := transport.NewEndpoint(g.Remote)
	if err != nil {
		return nil, errors.New("the repository's URL cannot be read")
	}
	var carrier transport.Transport
	var auth transport.AuthMethod
	s := &session{}
	switch g.Scheme {
	case "http", "https":
		carrier = githttp.NewClientWithOptions(&http.Client{Transport: &boundedTransport{c, c.http.Transport}, CheckRedirect: checkRedirect}, nil)
		if token, ok := c.secret("GIT_AUTH_TOKEN." + g.Host); ok {
			user := g.User
			if user == "" {
				user = "x-access-token"
			}
			auth = &githttp.BasicAuth{Username: user, Password: token}
		}
	case "ssh":
		if auth, err = c.sshAuth(g); err != nil {
			return nil, err
		}
		s.tunnel = gitssh.Open(ctx, c.options.Stall, maxRefs)
		endpoint.Proxy = s.tunnel.Proxy()
		carrier = sshtransport.NewClient(nil)
	default:
		carrier = gitdaemon.DefaultClient
	}
	if s.UploadPackSession, err = carrier.NewUploadPackSession(endpoint, auth); err != nil {
		defer s.tunnel.Close()
		return nil, s.failure(ctx, err)
	}
	if s.refs, err = s.AdvertisedReferencesContext(ctx); err != nil {
		defer s.close()
		return nil, s.failure(ctx, err)
	}
	s.tunnel.Allow(c.options.MaxBytes)
	return s, nil
}

func (c *Client) sshAuth(g *Git) (transport.AuthMethod, error) {
	if c.options.Agent == nil {
		return nil, errors.New("Git over ssh needs a key: pass one with --ssh default")
	}
	return &gitssh.Auth{User: g.User, Signers: c.options.Agent.Signers}, nil
}

// gitFailure words what go-git says, without secrets.
func gitFailure(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return errors.New("the repository is empty")
	case errors.Is(err, transport.ErrRepositoryNotFound), errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		return errors.New("there is no such repository, or it needs credentials: give a token as the secret GIT_AUTH_TOKEN.HOST")
	}
	return plain(gitssh.Explain(err))
}

// Resolve finds the commit a location leads to. A full commit is taken as it
// is, without asking.
func (c *Client) Resolve(ctx context.Context, g *Git) (string, error) {
	commit, err := c.resolve(ctx, g)
	if err != nil {
		return "", fmt.Errorf("%s: %w", g, err)
	}
	return commit, nil
}

func (c *Client) resolve(ctx context.Context, g *Git) (string, error) {
	if g.Direct {
		return g.Commit, g.check()
	}
	if plumbing.IsHash(g.Ref) {
		return matching(g, strings.ToLower(g.Ref), "")
	}
	s, err := c.begin(ctx, g)
	if err != nil {
		return "", err
	}
	defer s.close()
	return pick(g, s.refs)
}

// pick finds a ref among those advertised; like git checkout it takes a branch
// before a tag of the same name.
func pick(g *Git, refs *packp.AdvRefs) (string, error) {
	if g.Ref == "" || g.Ref == "HEAD" {
		if refs.Head == nil {
			return "", errors.New("the repository has no default branch: name a branch, tag or commit after #")
		}
		return matching(g, refs.Head.String(), "")
	}
	for _, name := range []string{"refs/" + strings.TrimPrefix(g.Ref, "refs/"), "refs/heads/" + g.Ref, "refs/tags/" + g.Ref} {
		hash, ok := refs.References[name]
		if !ok {
			continue
		}
		if peeled, ok := refs.Peeled[name]; ok {
			return matching(g, peeled.String(), hash.String())
		}
		return matching(g, hash.String(), "")
	}
	return "", fmt.Errorf("the repository has no branch, tag or full commit %q", g.Ref)
}

// matching compares a commit, or the annotated tag that leads to it, with the
// location's checksum.
func matching(g *Git, commit, tag string) (string, error) {
	if g.Commit != "" && !strings.HasPrefix(commit, g.Commit) && (tag == "" || !strings.HasPrefix(tag, g.Commit)) {
		return "", fmt.Errorf("the checksum says commit %s, but it is %s", g.Commit, commit)
	}
	return commit, nil
}

// fetch brings a commit with its files, and no history, into a new repository
// below dir.
func (c *Client) fetch(ctx context.Context, g *Git, commit, dir string) (*filesystem.Storage, error) {
	if !plumbing.IsHash(commit) {
		return nil, fmt.Errorf("%q is not a full commit hash", commit)
	}
	s, err := c.begin(ctx, g)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	storage := filesystem.NewStorageWithOptions(osfs.New(dir, osfs.WithBoundOS()), cache.NewObjectLRU(cache.MiByte*32), filesystem.Options{LargeObjectThreshold: largeObject})
	if err := storage.Init(); err != nil {
		return nil, err
	}
	request := packp.NewUploadPackRequest()
	for _, wanted := range []capability.Capability{capability.OFSDelta, capability.Shallow} {
		if s.refs.Capabilities.Supports(wanted) {
			if err := request.Capabilities.Set(wanted); err != nil {
				return nil, err
			}
		}
	}
	request.Wants = []plumbing.Hash{plumbing.NewHash(commit)}
	if s.refs.Capabilities.Supports(capability.Shallow) {
		request.Depth = packp.DepthCommits(1)
	}
	if !advertised(s.refs, request.Wants[0]) && !s.refs.Capabilities.Supports(capability.AllowReachableSHA1InWant) && !s.refs.Capabilities.Supports(capability.AllowTipSHA1InWant) {
		// A server that gives no commit by name gives its branches whole.
		request.Depth, request.Wants = packp.DepthCommits(0), nil
		for _, hash := range s.refs.References {
			request.Wants = append(request.Wants, hash)
		}
	}
	response, err := s.UploadPack(ctx, request)
	if err != nil {
		return nil, errors.Join(s.failure(ctx, err), storage.Close())
	}
	err = packfile.UpdateObjectStorage(storage, &limitedReader{from: response, left: c.options.MaxBytes, limit: c.options.MaxBytes})
	if err = errors.Join(err, response.Close()); err == nil && len(response.Shallows) > 0 {
		err = storage.SetShallow(response.Shallows)
	}
	if err == nil {
		_, err = object.GetCommit(storage, plumbing.NewHash(commit))
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			err = fmt.Errorf("the repository has no commit %s", commit)
		}
	}
	if err != nil {
		return nil, errors.Join(s.failure(ctx, err), storage.Close())
	}
	return storage, nil
}

func advertised(refs *packp.AdvRefs, commit plumbing.Hash) bool {
	for _, hash := range refs.References {
		if hash == commit {
			return true
		}
	}
	for _, hash := range refs.Peeled {
		if hash == commit {
			return true
		}
	}
	return refs.Head != nil && *refs.Head == commit
}

// boundedTransport bounds and watches the answers of Git servers.
type boundedTransport struct {
	client *Client
	next   http.RoundTripper
}

func (t *boundedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(request.Context())
	response, err := t.next.RoundTrip(request.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	limit := t.client.options.MaxBytes
	if strings.HasSuffix(request.URL.Path, "/info/refs") {
		limit = maxRefs
	}
	watched := watch(response.Body, t.client.options.Stall, cancel)
	response.Body = &boundedBody{&limitedReader{from: watched, left: limit, limit: limit}, response.Body, func() {
		watched.stop()
		cancel(nil)
	}}
	return response, nil
}

type boundedBody struct {
	io.Reader
	body io.Closer
	end  func()
}

func (b *boundedBody) Close() error {
	defer b.end()
	return b.body.Close()
}
