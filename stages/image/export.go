package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

// layoutWriter takes the files of an OCI image layout, each once.
type layoutWriter interface {
	// has tells whether a blob of that size is there already.
	has(name string, size int64) bool
	write(ctx context.Context, name string, size int64, content io.Reader) error
}

// annotationContainerdName is where containerd and Docker find the name of an
// image in a layout.
const annotationContainerdName = "io.containerd.image.name"

// entries are the result in a layout's index.json, once for each name.
func (r *Result) entries(names []name.Reference) []v1.Descriptor {
	descriptor := r.Descriptor
	descriptor.Annotations = maps.Clone(descriptor.Annotations)
	if len(names) == 0 {
		return []v1.Descriptor{descriptor}
	}
	var all []v1.Descriptor
	for _, ref := range names {
		d := descriptor
		d.Annotations = maps.Clone(descriptor.Annotations)
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		d.Annotations[annotationContainerdName] = fullName(ref)
		d.Annotations[ocispec.AnnotationRefName] = ref.Identifier()
		all = append(all, d)
	}
	return all
}

// fullName is an image's name as Docker and containerd spell it.
func fullName(ref name.Reference) string {
	if rest, ok := strings.CutPrefix(ref.Name(), name.DefaultRegistry+"/"); ok {
		return "docker.io/" + rest
	}
	return ref.Name()
}

func blobPath(digest v1.Hash) string { return path.Join("blobs", digest.Algorithm, digest.Hex) }

// writeBlobs writes every manifest and blob.
func (r *Result) writeBlobs(ctx context.Context, to layoutWriter) error {
	written := map[v1.Hash]bool{}
	put := func(blob registry.Upload) error {
		if written[blob.Digest] {
			return nil
		}
		written[blob.Digest] = true
		at := blobPath(blob.Digest)
		if to.has(at, blob.Size) {
			return nil
		}
		content, err := blob.Open(ctx, 0)
		if err != nil {
			return err
		}
		return errors.Join(to.write(ctx, at, blob.Size, content), content.Close())
	}
	for _, m := range r.manifests() {
		for _, blob := range slices.Concat(m.Blobs, []registry.Upload{BytesBlob(m.Raw, m.MediaType)}) {
			if err := put(blob); err != nil {
				return err
			}
		}
	}
	if r.Index != nil {
		return put(BytesBlob(r.Index, types.OCIImageIndex))
	}
	return nil
}

func writeJSON(ctx context.Context, to layoutWriter, at string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	blob := BytesBlob(data, "")
	content, err := blob.Open(ctx, 0)
	if err != nil {
		return err
	}
	return to.write(ctx, at, blob.Size, content)
}

// writeLayout writes an OCI image layout with these entries in its index.json.
func (r *Result) writeLayout(ctx context.Context, to layoutWriter, entries []v1.Descriptor) error {
	if err := r.writeBlobs(ctx, to); err != nil {
		return err
	}
	if err := writeJSON(ctx, to, "index.json", v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: entries}); err != nil {
		return err
	}
	// Last: a directory without it is no layout yet.
	return writeJSON(ctx, to, ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

// WriteLayoutArchive writes an OCI image layout as a tar stream. The result
// has an entry for each name.
func (r *Result) WriteLayoutArchive(ctx context.Context, to io.Writer, names []name.Reference) error {
	w := &archiveLayout{archive: tar.NewWriter(to)}
	if err := r.writeLayout(ctx, w, r.entries(names)); err != nil {
		return fmt.Errorf("write OCI layout: %w", err)
	}
	return w.archive.Close()
}

// WriteDocker writes a tar stream that `docker load` reads, with the image
// under the names. It is an OCI layout too, for newer readers.
func (r *Result) WriteDocker(ctx context.Context, to io.Writer, names []name.Reference) error {
	if len(r.Images) != 1 {
		return r.notForDocker()
	}
	image := r.Images[0]
	entry := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: blobPath(image.Blobs[0].Digest), Layers: []string{}}
	for _, ref := range names {
		entry.RepoTags = append(entry.RepoTags, fullName(ref))
	}
	for _, link := range image.layers {
		entry.Layers = append(entry.Layers, blobPath(link.Digest))
	}
	w := &archiveLayout{archive: tar.NewWriter(to)}
	if err := r.writeLayout(ctx, w, r.entries(names)); err != nil {
		return fmt.Errorf("write docker archive: %w", err)
	}
	if err := writeJSON(ctx, w, "manifest.json", []any{entry}); err != nil {
		return fmt.Errorf("write docker archive: %w", err)
	}
	return w.archive.Close()
}

func (r *Result) notForDocker() error {
	return invalid(fmt.Errorf("a docker archive holds an image of one platform, and this has %d: use type=oci, or build one platform", len(r.Images)))
}

// archiveLayout is a layout in a tar stream. Equal content gives equal bytes.
type archiveLayout struct {
	archive *tar.Writer
	made    map[string]bool
}

func (*archiveLayout) has(string, int64) bool { return false }

func (a *archiveLayout) write(_ context.Context, at string, size int64, content io.Reader) error {
	for _, dir := range parents(at) {
		if a.made[dir] {
			continue
		}
		if a.made == nil {
			a.made = map[string]bool{}
		}
		a.made[dir] = true
		if err := a.archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
			return err
		}
	}
	if err := a.archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: at, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(a.archive, content)
	return err
}

// parents are the directories above a path, outermost first.
func parents(at string) []string {
	var all []string
	for dir := path.Dir(at); dir != "."; dir = path.Dir(dir) {
		all = append([]string{dir}, all...)
	}
	return all
}

// maxLayoutIndex bounds the index.json of a layout that is added to, in bytes.
const maxLayoutIndex = 8 << 20

// WriteLayout adds the result to the OCI image layout at dir, which is made if
// it does not exist. An entry of the same name is replaced.
func (r *Result) WriteLayout(ctx context.Context, dir string, names []name.Reference) error {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return fmt.Errorf("write OCI layout: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("write OCI layout: %w", err)
	}
	defer root.Close()
	w := &directoryLayout{root}
	added := r.entries(names)
	kept, err := w.others(added)
	if err != nil {
		return fmt.Errorf("add to OCI layout %s: %w", dir, err)
	}
	if err := r.writeLayout(ctx, w, append(kept, added...)); err != nil {
		return fmt.Errorf("write OCI layout %s: %w", dir, err)
	}
	return nil
}

// directoryLayout is a layout in a directory. A file appears whole or not at all.
type directoryLayout struct{ root *os.Root }

func (d *directoryLayout) has(at string, size int64) bool {
	info, err := d.root.Lstat(at)
	return err == nil && info.Mode().IsRegular() && info.Size() == size
}

func (d *directoryLayout) write(_ context.Context, at string, _ int64, content io.Reader) error {
	temporary := at + ".new"
	_ = d.root.Remove(temporary) // a leftover of a killed build, if any
	file, err := d.root.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	if err := errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, d.root.Remove(temporary))
	}
	return d.root.Rename(temporary, at)
}

// others are the entries of the layout that stay beside the added ones.
func (d *directoryLayout) others(added []v1.Descriptor) ([]v1.Descriptor, error) {
	file, err := d.root.Open("index.json")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	index, err := v1.ParseIndexManifest(io.LimitReader(file, maxLayoutIndex))
	if err != nil {
		return nil, err
	}
	var kept []v1.Descriptor
	for _, old := range index.Manifests {
		replaced := false
		for _, d := range added {
			was, is := old.Annotations[annotationContainerdName], d.Annotations[annotationContainerdName]
			replaced = replaced || was == is && (is != "" || old.Digest == d.Digest)
		}
		if !replaced {
			kept = append(kept, old)
		}
	}
	return kept, nil
}
