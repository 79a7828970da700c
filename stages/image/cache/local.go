package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

// A cache on this machine is an OCI image layout: oci-layout, index.json, and
// blobs/sha256. Several processes may write one; blobs that only a replaced
// cache of the same tag named are removed.

const (
	indexFile = "index.json"
	lockFile  = "index.json.lock"
	blobsDir  = "blobs/sha256"
)

// FromLocal reads the cache of a tag in a layout. The error is fs.ErrNotExist
// when there is none.
func FromLocal(dir, tag string) (*Imported, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	defer root.Close()
	index, err := readIndex(root)
	if err != nil {
		return nil, err
	}
	i := tagged(index, tag)
	if i < 0 {
		return nil, fmt.Errorf("%s has no cache %q: %w", dir, tag, fs.ErrNotExist)
	}
	raw, err := readBlob(root, index.Manifests[i])
	if err != nil {
		return nil, fmt.Errorf("cache %s: %w", dir, err)
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("cache %s: %w", dir, err)
	}
	config, err := readBlob(root, ocispec.Descriptor{Digest: digestOf(manifest.Config.Digest), Size: manifest.Config.Size})
	if err != nil {
		return nil, fmt.Errorf("cache %s: %w", dir, err)
	}
	return newImported(dir, localBlobs(dir), manifest, config)
}

func tagged(index ocispec.Index, tag string) int {
	return slices.IndexFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Annotations[ocispec.AnnotationRefName] == tag })
}

// readIndex reads a layout's index; a layout without one is empty.
func readIndex(root *os.Root) (ocispec.Index, error) {
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	index.SchemaVersion = 2
	file, err := root.Open(indexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil
	}
	if err != nil {
		return index, fmt.Errorf("read cache: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, MaxDocument+1))
	if err == nil && len(data) > MaxDocument {
		err = fmt.Errorf("it has more than %d bytes", MaxDocument)
	}
	if err == nil {
		err = json.Unmarshal(data, &index)
	}
	if err != nil {
		return index, fmt.Errorf("read %s of cache: %w", indexFile, err)
	}
	return index, nil
}

func blobPath(digest v1.Hash) (string, error) {
	if err := checkDigest(digest); err != nil {
		return "", err
	}
	return path.Join(blobsDir, digest.Hex), nil
}

// readBlob reads a small blob and verifies it.
func readBlob(root *os.Root, d ocispec.Descriptor) ([]byte, error) {
	digest, err := v1.NewHash(d.Digest.String())
	if err != nil {
		return nil, err
	}
	at, err := blobPath(digest)
	if err != nil {
		return nil, err
	}
	if d.Size < 0 || d.Size > MaxDocument {
		return nil, fmt.Errorf("blob %s has %d bytes, more than the %d of a document", digest, d.Size, MaxDocument)
	}
	file, err := root.Open(at)
	if err != nil {
		return nil, err
	}
	content := &verified{from: file, want: digest, left: d.Size, hash: sha256.New()}
	defer content.Close()
	return io.ReadAll(content)
}

// localBlobs are the blobs of a layout.
type localBlobs string

func (l localBlobs) Open(_ context.Context, descriptor v1.Descriptor, offset int64) (io.ReadCloser, error) {
	at, err := blobPath(descriptor.Digest)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(string(l))
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	defer root.Close()
	file, err := root.OpenFile(at, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &GoneError{descriptor.Digest, string(l)}
	}
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() != descriptor.Size {
		_ = file.Close() // only read from
		return nil, &GoneError{descriptor.Digest, string(l)}
	}
	if offset > 0 {
		_, err := file.Seek(offset, io.SeekStart)
		return file, err
	}
	return &verified{from: file, want: descriptor.Digest, left: descriptor.Size, hash: sha256.New()}, nil
}

func (l localBlobs) Repository() name.Repository { return name.Repository{} }
func (l localBlobs) String() string              { return string(l) }

// verified reads so many bytes and fails at their end unless they have the digest.
type verified struct {
	from io.ReadCloser
	want v1.Hash
	left int64
	hash hash.Hash
}

func (v *verified) Read(p []byte) (int, error) {
	if v.left == 0 {
		if got := hex.EncodeToString(v.hash.Sum(nil)); got != v.want.Hex {
			return 0, &registry.DigestError{Want: v.want, Got: v1.Hash{Algorithm: "sha256", Hex: got}}
		}
		return 0, io.EOF
	}
	n, err := v.from.Read(p[:min(int64(len(p)), v.left)])
	v.hash.Write(p[:n])
	v.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = nil
		if v.left > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

func (v *verified) Close() error { return v.from.Close() }

// ToLocal writes a cache under a tag into a layout, which is made if it does not
// exist. It tells how many bytes were written.
func ToLocal(ctx context.Context, dir, tag string, content Content) (registry.Pushed, error) {
	var done registry.Pushed
	if err := os.MkdirAll(path.Join(dir, blobsDir), 0o755); err != nil {
		return done, fmt.Errorf("make cache directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return done, fmt.Errorf("open cache: %w", err)
	}
	defer root.Close()
	unlock, err := lockLayout(ctx, root)
	if err != nil {
		return done, err
	}
	defer unlock()
	manifest, document, blobs, err := content.manifest()
	if err != nil {
		return done, err
	}
	top := bytesBlob(manifest, types.OCIManifestSchema1)
	done.Digest = top.Digest
	for _, blob := range append(blobs, document, top) {
		n, err := writeBlob(ctx, root, blob, content.Progress)
		if err != nil {
			return done, fmt.Errorf("write %s: %w", blob.Digest, err)
		}
		if n == 0 {
			done.Present++
			continue
		}
		done.Uploaded++
		done.Bytes += n
	}
	return done, replaceTag(root, tag, top.Descriptor)
}

func lockLayout(ctx context.Context, root *os.Root) (func(), error) {
	file, err := root.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil // closing unlocks
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = file.Close() // err matters more
			return nil, fmt.Errorf("lock cache: %w", err)
		}
		select {
		case <-ctx.Done():
			_ = file.Close() // err matters more
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// lockPoll is how often a lock held elsewhere is tried again.
const lockPoll = 20 * time.Millisecond

// writeBlob writes a blob unless it is there; whole or not at all.
func writeBlob(ctx context.Context, root *os.Root, blob registry.Upload, progress func(v1.Hash, int64)) (n int64, err error) {
	at, err := blobPath(blob.Digest)
	if err != nil {
		return 0, err
	}
	if info, err := root.Stat(at); err == nil && info.Size() == blob.Size {
		return 0, nil
	}
	content, err := blob.Open(ctx, 0)
	if err != nil {
		return 0, err
	}
	defer content.Close()
	partial := at + ".partial"
	file, err := root.Create(partial)
	if err != nil {
		return 0, err
	}
	check := sha256.New()
	n, err = io.Copy(io.MultiWriter(file, check), &contextReader{ctx, io.LimitReader(content, blob.Size)})
	if err == nil && hex.EncodeToString(check.Sum(nil)) != blob.Digest.Hex {
		err = errors.New("its content has another digest")
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = root.Rename(partial, at)
	}
	if err != nil {
		_ = root.Remove(partial) // err matters more
		return 0, err
	}
	if progress != nil {
		progress(blob.Digest, n)
	}
	return n, nil
}

type contextReader struct {
	ctx  context.Context //nolint:containedctx // a reader has no other place for it
	from io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.from.Read(p)
}

// replaceTag makes tag mean a manifest, and removes what only the one before had.
func replaceTag(root *os.Root, tag string, top v1.Descriptor) error {
	index, err := readIndex(root)
	if err != nil {
		return err
	}
	descriptor := descriptorOf(top)
	descriptor.ArtifactType = ArtifactType
	descriptor.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	var before *ocispec.Descriptor
	if i := tagged(index, tag); i >= 0 {
		old := index.Manifests[i]
		before = &old
		index.Manifests[i] = descriptor
	} else {
		index.Manifests = append(index.Manifests, descriptor)
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := writeWhole(root, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := writeWhole(root, indexFile, data); err != nil {
		return err
	}
	if before == nil || before.Digest == descriptor.Digest || before.ArtifactType != ArtifactType {
		return nil
	}
	return removeUnnamed(root, index, *before)
}

func writeWhole(root *os.Root, name string, data []byte) error {
	if err := root.WriteFile(name+".partial", data, 0o644); err != nil {
		return fmt.Errorf("write cache: %w", err)
	}
	return root.Rename(name+".partial", name)
}

// removeUnnamed removes the blobs of a replaced cache that no other of the
// layout has. When one cannot be read, all stay.
func removeUnnamed(root *os.Root, index ocispec.Index, before ocispec.Descriptor) error {
	old, err := namedBlobs(root, before)
	if err != nil {
		return nil //nolint:nilerr // what it named is not known
	}
	kept := map[string]bool{}
	for _, d := range index.Manifests {
		names, err := namedBlobs(root, d)
		if err != nil {
			return nil //nolint:nilerr // it may need any of them
		}
		for _, name := range names {
			kept[name] = true
		}
	}
	for _, name := range old {
		if !kept[name] {
			if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("clean cache: %w", err)
			}
		}
	}
	return nil
}

// namedBlobs are the files of a manifest: itself and what it names.
func namedBlobs(root *os.Root, d ocispec.Descriptor) ([]string, error) {
	raw, err := readBlob(root, d)
	if err != nil {
		return nil, err
	}
	var document struct {
		Config    ocispec.Descriptor   `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &document); err != nil {
		return nil, err
	}
	var names []string
	for _, named := range append([]ocispec.Descriptor{d, document.Config}, document.Layers...) {
		if named.Digest == "" {
			continue
		}
		hash, err := v1.NewHash(named.Digest.String())
		if err != nil {
			return nil, err
		}
		at, err := blobPath(hash)
		if err != nil {
			return nil, err
		}
		names = append(names, at)
	}
	for _, nested := range document.Manifests {
		below, err := namedBlobs(root, nested)
		if err != nil {
			return nil, err
		}
		names = append(names, below...)
	}
	return names, nil
}
