package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Layout is a directory that holds images as the OCI image layout has them.
type Layout struct {
	root *os.Root
	dir  string
}

// maxLayoutDocument bounds an index, manifest or configuration, in bytes.
const maxLayoutDocument = 16 << 20

// refNameAnnotation is what names an image of a layout.
const refNameAnnotation = "org.opencontainers.image.ref.name"

// OpenLayout opens "DIR", "DIR:TAG" or "DIR@DIGEST" and returns the layout with
// what names the image in it; empty for the only one.
func OpenLayout(text string) (*Layout, string, error) {
	dir, which := text, ""
	if at := strings.LastIndex(text, "@"); at >= 0 {
		dir, which = text[:at], text[at+1:]
	} else if colon := strings.LastIndex(text, ":"); colon > strings.LastIndex(text, "/") {
		dir, which = text[:colon], text[colon+1:]
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, "", fmt.Errorf("open OCI layout: %w", err)
	}
	return &Layout{root, dir}, which, nil
}

// Close lets go of the directory.
func (l *Layout) Close() error { return l.root.Close() }

// Repository says that nothing of a layout can be mounted from a registry.
func (l *Layout) Repository() name.Repository { return name.Repository{} }

func (l *Layout) String() string { return "oci-layout://" + l.dir }

// Open gives a blob from an offset. From 0 its size and digest are verified at
// its end.
func (l *Layout) Open(_ context.Context, d v1.Descriptor, offset int64) (io.ReadCloser, error) {
	if d.Digest.Algorithm != "sha256" || strings.ContainsAny(d.Digest.Hex, "/.") {
		return nil, fmt.Errorf("%s: digest %s is not supported", l, d.Digest)
	}
	file, err := l.root.Open(filepath.Join("blobs", d.Digest.Algorithm, d.Digest.Hex))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l, err)
	}
	if offset == 0 {
		return &verifier{from: file, want: d, hash: sha256.New()}, nil
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func (l *Layout) document(ctx context.Context, d v1.Descriptor, into any) ([]byte, error) {
	if d.Size > maxLayoutDocument {
		return nil, fmt.Errorf("%s: %s has %d bytes, more than %d", l, d.Digest, d.Size, maxLayoutDocument)
	}
	content, err := l.Open(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	data, err := io.ReadAll(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l, err)
	}
	if into != nil {
		if err := json.Unmarshal(data, into); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", l, d.Digest, err)
		}
	}
	return data, nil
}

// Image finds an image of the layout by tag or digest for a platform; its
// layers are read with Open.
func (l *Layout) Image(ctx context.Context, which string, platform v1.Platform) (*Image, error) {
	file, err := l.root.Open("index.json")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l, err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxLayoutDocument))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l, err)
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%s: index.json: %w", l, err)
	}
	var found []v1.Descriptor
	for _, d := range index.Manifests {
		if which == "" || d.Digest.String() == which || d.Annotations[refNameAnnotation] == which || strings.HasSuffix(d.Annotations[refNameAnnotation], ":"+which) {
			found = append(found, d)
		}
	}
	// Nested at most as deep as images are: an index of indexes.
	for depth := 0; len(found) > 0 && depth < 4; depth++ {
		chosen := &found[0]
		if len(found) > 1 {
			if chosen = pick(found, platform); chosen == nil {
				break
			}
		}
		if chosen.MediaType.IsIndex() {
			var nested v1.IndexManifest
			if _, err := l.document(ctx, *chosen, &nested); err != nil {
				return nil, err
			}
			found = nested.Manifests
			continue
		}
		image := &Image{Digest: chosen.Digest, Manifest: &v1.Manifest{}, mediaType: types.OCIManifestSchema1}
		if image.rawManifest, err = l.document(ctx, *chosen, image.Manifest); err != nil {
			return nil, err
		}
		if image.rawConfig, err = l.document(ctx, image.Manifest.Config, nil); err != nil {
			return nil, err
		}
		return image, nil
	}
	if which == "" {
		which = "an image"
	}
	return nil, fmt.Errorf("%s has no %s for %s", l, which, platform.String())
}

// verifier reads a file that must have a descriptor's size and digest.
type verifier struct {
	from io.ReadCloser
	want v1.Descriptor
	hash hash.Hash
	size int64
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.from.Read(p)
	v.hash.Write(p[:n])
	if v.size += int64(n); v.size > v.want.Size {
		return 0, fmt.Errorf("blob %s has more than %d bytes", v.want.Digest, v.want.Size)
	}
	if errors.Is(err, io.EOF) {
		if got := (v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(v.hash.Sum(nil))}); got != v.want.Digest || v.size != v.want.Size {
			return 0, &DigestError{Want: v.want.Digest, Got: got}
		}
	}
	return n, err
}

func (v *verifier) Close() error { return v.from.Close() }
