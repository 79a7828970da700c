package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net/url"
	"os"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/tidegate-ci/tidegate/stages/image/attest"
	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/remote"
)

// remoteFile is a file or tree that an ADD takes from elsewhere, found out as
// far as the step's key needs it.
type remoteFile struct {
	plan.Remote
	// git and commit are set for a Git tree, blob for a file.
	git    *remote.Git
	commit string
	blob   remoteBlob
}

// remoteBlob is a downloaded file in the store.
type remoteBlob struct {
	remote.Validators
	Digest v1.Hash `json:"digest"`
	Size   int64   `json:"size"`
}

const downloadRecord = "download"

// unnamed is what a file is called whose URL names none.
const unnamed = "__unnamed__"

// remoteMode is what a downloaded file gets, as from `docker build`.
const remoteMode = 0o600

// lookUpRemotes finds the commits and contents of a step's remotes.
func (r *stepRun) lookUpRemotes(ctx context.Context, c *plan.Copy, f *files) error {
	for _, spec := range c.Remotes {
		found := remoteFile{Remote: spec}
		if !spec.Git {
			var err error
			if found.blob, err = r.download(ctx, spec); err != nil {
				return err
			}
			digest := found.blob.Digest
			r.downloaded(attest.Material{URI: spec.Location, Digest: map[string]string{digest.Algorithm: digest.Hex}})
			f.origin.Remotes = append(f.origin.Remotes, "file "+found.blob.Digest.String())
			f.remotes = append(f.remotes, found)
			continue
		}
		g, _, err := remote.ParseGit(spec.Location)
		if err != nil {
			return err
		}
		if spec.Checksum != "" {
			g.Commit = spec.Checksum
		}
		if spec.KeepGitDir != nil {
			g.KeepGitDir = spec.KeepGitDir
		}
		if found.commit, err = r.files.contexts.remote.Resolve(ctx, g); err != nil {
			return err
		}
		if m, err := attest.GitMaterial(spec.Location, found.commit); err == nil {
			r.downloaded(m)
		}
		found.git = g
		f.origin.Remotes = append(f.origin.Remotes, "commit "+found.commit)
		f.remotes = append(f.remotes, found)
	}
	return nil
}

// download brings a URL's content into the store. What is there from earlier
// builds serves if the checksum says so or the server says that it still holds.
func (r *stepRun) download(ctx context.Context, spec plan.Remote) (remoteBlob, error) {
	k := newKeyer(downloadRecord)
	k.text("scope", r.request.Scope)
	k.text("url", spec.Location)
	key := k.sum()
	var known remoteBlob
	if !r.request.NoCache {
		if found, err := r.Store.Record(downloadRecord, key, &known); err != nil || !found || !r.Store.Has(known.Digest, known.Size) {
			known = remoteBlob{} // fetched again
		}
	}
	if known.Size > 0 && spec.Checksum == known.Digest.String() {
		return known, nil
	}
	temporary, err := r.session.Temporary()
	if err != nil {
		return remoteBlob{}, err
	}
	defer temporary.Discard()
	sum := sha256.New()
	sinks := []io.Writer{temporary, sum}
	var verifier digest.Verifier
	if spec.Checksum != "" {
		verifier = digest.Digest(spec.Checksum).Verifier()
		sinks = append(sinks, verifier)
	}
	got, err := r.files.contexts.remote.Get(ctx, spec.Location, known.Validators, io.MultiWriter(sinks...))
	if err != nil {
		return remoteBlob{}, err
	}
	if got.Unchanged {
		if verifier == nil {
			return known, nil
		}
		return known, r.verifyKnown(known, spec)
	}
	if verifier != nil && !verifier.Verified() {
		return remoteBlob{}, checksumError(spec, hexOf(sum))
	}
	blob := remoteBlob{got.Validators, v1.Hash{Algorithm: "sha256", Hex: hexOf(sum)}, got.Size}
	if err := temporary.Keep(blob.Digest); err != nil {
		return remoteBlob{}, err
	}
	return blob, r.session.Put(downloadRecord, key, blob)
}

func hexOf(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

func checksumError(spec plan.Remote, got string) error {
	return fmt.Errorf("%s has another checksum: wanted %s, got sha256:%s", remote.Redacted(spec.Location), spec.Checksum, got)
}

func (r *stepRun) verifyKnown(known remoteBlob, spec plan.Remote) error {
	file, err := r.Store.Blob(known.Digest)
	if err != nil {
		return err
	}
	defer file.Close()
	verifier := digest.Digest(spec.Checksum).Verifier()
	if _, err := io.Copy(verifier, file); err != nil {
		return err
	}
	if !verifier.Verified() {
		return checksumError(spec, known.Digest.Hex)
	}
	return nil
}

// placeRemotes places what lookUpRemotes found.
func (r *stepRun) placeRemotes(ctx context.Context, p *layer.Placement, to layer.Destination, from *files) error {
	for i := range from.remotes {
		place := r.placeFile
		if from.remotes[i].git != nil {
			place = r.placeGit
		}
		if err := place(ctx, p, to, from, &from.remotes[i]); err != nil {
			return err
		}
	}
	return nil
}

// blobOpener opens blobs of the store, for archives.
type blobOpener struct{ *stepRun }

func (o blobOpener) Open(name string) (*os.File, error) {
	digest, err := v1.NewHash(name)
	if err != nil {
		return nil, err
	}
	return o.Store.Blob(digest)
}

func (r *stepRun) placeFile(_ context.Context, p *layer.Placement, to layer.Destination, _ *files, f *remoteFile) error {
	if f.Unpack {
		if unpacked, err := p.Archive(to, blobOpener{r}, f.blob.Digest.String()); err != nil || unpacked {
			return err
		}
	}
	name := unnamed
	if u, err := url.Parse(f.Location); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" {
			name = base
		}
	}
	digest := f.blob.Digest
	return p.Content(to, layer.Entry{
		Name: name, Node: layer.Node{Type: tar.TypeReg, Mode: remoteMode}, Size: f.blob.Size,
		Open: func() (io.ReadCloser, error) { return r.Store.Blob(digest) },
	})
}

func (r *stepRun) placeGit(ctx context.Context, p *layer.Placement, to layer.Destination, from *files, f *remoteFile) error {
	dir, err := os.MkdirTemp(r.session.Dir(), "git-")
	if err != nil {
		return err
	}
	previous := from.close
	from.close = func() {
		previous()
		_ = os.RemoveAll(dir) // the session's end removes it otherwise
	}
	if err := r.files.contexts.remote.Checkout(ctx, f.git, f.commit, dir, r.session.Dir()); err != nil {
		return err
	}
	tree, err := layer.OpenTree(dir, false)
	if err != nil {
		return err
	}
	from.close = func() {
		_ = tree.Close() // only read from
		previous()
		_ = os.RemoveAll(dir) // the session's end removes it otherwise
	}
	selector := layer.Selector{Tree: tree, Exclude: from.exclude, Where: f.git.String()}
	items, err := selector.Select(ctx, []string{"."})
	if err != nil {
		return err
	}
	to.Directory = true
	return p.Files(to, tree, items)
}
