// Package cache carries what a build's steps made to other machines: records of
// step keys with the layers that answer them, in a registry, in an image, or in
// a directory. The layers themselves stay where they are until they are needed.
//
// A cache is an OCI image manifest, so that any registry keeps it: its
// configuration is a Document, its layers are those the records name.
package cache

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/tidegate-ci/tidegate/stages/image/layer"
)

// The media types of a cache's parts.
const (
	ArtifactType = "application/vnd.tidegate.build.cache.v1"
	DocumentType = "application/vnd.tidegate.build.cache.document.v1+json"
	MountType    = "application/vnd.tidegate.build.cache.mount.v1.tar+zstd"
)

// documentVersion changes when older readers would misread a document.
const documentVersion = 1

// The bounds of a document from outside.
const (
	MaxDocument = 8 << 20 // bytes
	maxRecords  = 1 << 16
	maxScope    = 1 << 10  // bytes
	maxLayer    = 64 << 30 // bytes of one layer, compressed
	maxMounts   = 256
	maxMountID  = 1 << 10 // bytes
)

// Document is what a cache says.
type Document struct {
	Version int `json:"version"`
	// Scope says whose builds made it; it is part of every key.
	Scope string `json:"scope"`
	// Records are sorted by key, so that the same steps give the same document.
	Records []Record `json:"records"`
	// Mounts are the contents of cache mounts, as Pack writes them.
	Mounts []Mount `json:"mounts,omitempty"`
}

// Mount is the packed content of a cache mount.
type Mount struct {
	ID     string  `json:"id"`
	Digest v1.Hash `json:"digest"`
	Size   int64   `json:"size"`
}

// Record is the answer to a step's key. No layer means that the step makes none.
type Record struct {
	Key   v1.Hash `json:"key"`
	Layer *Layer  `json:"layer,omitempty"`
}

// Layer is a layer as a record names it.
type Layer struct {
	Digest    v1.Hash         `json:"digest"`
	DiffID    v1.Hash         `json:"diffID"`
	Size      int64           `json:"size"`
	MediaType types.MediaType `json:"mediaType"`
}

// Of is a layer for a record.
func Of(l layer.Layer) *Layer {
	if l.Empty {
		return nil
	}
	return &Layer{Digest: l.Digest, DiffID: l.DiffID, Size: l.Size, MediaType: l.MediaType}
}

// Answer is the layer a record answers with.
func (r Record) Answer() layer.Layer {
	if r.Layer == nil {
		return layer.Layer{Empty: true}
	}
	return layer.Layer{Digest: r.Layer.Digest, DiffID: r.Layer.DiffID, Size: r.Layer.Size, MediaType: r.Layer.MediaType}
}

// NewDocument makes a document of records; of several with one key the first counts.
func NewDocument(scope string, records []Record) Document {
	seen := make(map[v1.Hash]bool, len(records))
	var kept []Record
	for _, r := range records {
		if !seen[r.Key] {
			seen[r.Key] = true
			kept = append(kept, r)
		}
	}
	slices.SortFunc(kept, func(a, b Record) int { return cmp.Compare(a.Key.Hex, b.Key.Hex) })
	return Document{Version: documentVersion, Scope: scope, Records: kept}
}

// Encode gives the document's JSON.
func (d Document) Encode() ([]byte, error) {
	data, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode build cache: %w", err)
	}
	if len(data) > MaxDocument || len(d.Records) > maxRecords {
		return nil, fmt.Errorf("the build cache has %d records in %d bytes, more than the %d in %d bytes that one may have", len(d.Records), len(data), maxRecords, MaxDocument)
	}
	return data, nil
}

// Parse reads a document that somebody else wrote, and takes nothing that does
// not hold together.
func Parse(data []byte) (Document, error) {
	var d Document
	fail := func(format string, args ...any) (Document, error) {
		return Document{}, fmt.Errorf("build cache: %w", fmt.Errorf(format, args...))
	}
	if len(data) > MaxDocument {
		return fail("it has more than %d bytes", MaxDocument)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&d); err != nil {
		return fail("%w", err)
	}
	switch {
	case d.Version != documentVersion:
		return fail("it has version %d, and version %d is known here", d.Version, documentVersion)
	case len(d.Scope) > maxScope:
		return fail("its scope has more than %d bytes", maxScope)
	case len(d.Records) > maxRecords:
		return fail("it has more than %d records", maxRecords)
	}
	if len(d.Mounts) > maxMounts {
		return fail("it has more than %d mounts", maxMounts)
	}
	for i, m := range d.Mounts {
		if len(m.ID) > maxMountID || m.Size <= 0 || m.Size > maxLayer {
			return fail("mount %d: its id has %d bytes, its content %d", i, len(m.ID), m.Size)
		}
		if err := checkDigest(m.Digest); err != nil {
			return fail("mount %d: %w", i, err)
		}
	}
	for i, r := range d.Records {
		if err := r.check(); err != nil {
			return fail("record %d: %w", i, err)
		}
	}
	return d, nil
}

func (r Record) check() error {
	if err := checkDigest(r.Key); err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if r.Layer == nil {
		return nil
	}
	switch r.Layer.MediaType {
	case types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer:
	default:
		return fmt.Errorf("the media type %q is no layer's", r.Layer.MediaType)
	}
	if r.Layer.Size <= 0 || r.Layer.Size > maxLayer {
		return fmt.Errorf("a layer cannot have %d bytes", r.Layer.Size)
	}
	return errors.Join(checkDigest(r.Layer.Digest), checkDigest(r.Layer.DiffID))
}

func checkDigest(h v1.Hash) error {
	raw, err := hex.DecodeString(h.Hex)
	if h.Algorithm != "sha256" || err != nil || len(raw) != 32 || hex.EncodeToString(raw) != h.Hex {
		return fmt.Errorf("%q is no sha256 digest", h.String())
	}
	return nil
}
