package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

func digestN(n int) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%064x", n)} }

func recordN(n int) Record {
	return Record{Key: digestN(n), Layer: &Layer{Digest: digestN(n + 1000), DiffID: digestN(n + 2000), Size: int64(n + 1), MediaType: types.OCILayer}}
}

func TestDocumentsOfTheSameRecordsAreTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		numbers := rapid.SliceOf(rapid.IntRange(0, 50)).Draw(t, "records")
		var records []Record
		for _, n := range numbers {
			records = append(records, recordN(n))
		}
		shuffled := rapid.Permutation(records).Draw(t, "order")
		one, err := NewDocument("s", records).Encode()
		if err != nil {
			t.Fatal(err)
		}
		two, err := NewDocument("s", shuffled).Encode()
		if err != nil || !bytes.Equal(one, two) {
			t.Fatalf("order shows: %s %s %v", one, two, err)
		}
		back, err := Parse(one)
		if err != nil || back.Scope != "s" {
			t.Fatalf("not read back: %v", err)
		}
	})
}

func TestDocumentsThatDoNotHoldTogetherAreRefused(t *testing.T) {
	change := func(edit func(*Document)) []byte {
		d := NewDocument("s", []Record{recordN(1)})
		edit(&d)
		data, err := json.Marshal(d)
		require.NoError(t, err)
		return data
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"no JSON":         {[]byte("<html>"), "invalid character"},
		"version":         {change(func(d *Document) { d.Version = 2 }), "version 2"},
		"scope":           {change(func(d *Document) { d.Scope = strings.Repeat("x", 2000) }), "scope"},
		"key":             {change(func(d *Document) { d.Records[0].Key = v1.Hash{Algorithm: "sha256", Hex: "../../etc"} }), "hash"},
		"algorithm":       {change(func(d *Document) { d.Records[0].Layer.Digest.Algorithm = "md5" }), "hash"},
		"upper case":      {change(func(d *Document) { d.Records[0].Layer.DiffID.Hex = strings.Repeat("A", 64) }), "hash"},
		"negative size":   {change(func(d *Document) { d.Records[0].Layer.Size = -1 }), "cannot have -1 bytes"},
		"enormous size":   {change(func(d *Document) { d.Records[0].Layer.Size = 1 << 60 }), "cannot have"},
		"media type":      {change(func(d *Document) { d.Records[0].Layer.MediaType = "text/html" }), "media type"},
		"too many":        {change(func(d *Document) { d.Records = slices.Repeat([]Record{{Key: digestN(1)}}, maxRecords+1) }), "more than"},
		"too many bytes":  {make([]byte, MaxDocument+1), "bytes"},
		"several at once": {change(func(d *Document) { d.Records = append(d.Records, recordN(2)); d.Records[1].Layer.Size = 0 }), "record 1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(c.data)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func FuzzParse(f *testing.F) {
	good, err := NewDocument("s", []Record{recordN(1), {Key: digestN(2)}}).Encode()
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(`{"version":1,"records":[{"key":"sha256:zz"}]}`))
	f.Add([]byte(`{"version":1,"records":[{"layer":{}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse(data)
		if err != nil {
			return
		}
		for _, r := range d.Records {
			if err := r.check(); err != nil {
				t.Fatalf("accepted %+v: %v", r, err)
			}
			r.Answer()
		}
		if again, err := d.Encode(); err != nil {
			t.Fatal(err)
		} else if _, err := Parse(again); err != nil {
			t.Fatalf("not read back: %v", err)
		}
	})
}

func TestSpecs(t *testing.T) {
	for text, want := range map[string]Spec{
		"user/app":                              {Kind: Registry, Ref: "user/app", Mode: Min},
		"type=registry,ref=a/b:c,mode=max":      {Kind: Registry, Ref: "a/b:c", Mode: Max},
		"type=inline":                           {Kind: Inline, Mode: Min},
		"type=local,dest=/d,tag=t":              {Kind: Local, Dir: "/d", Tag: "t", Mode: Min},
		"type=registry,ref=a,ignore-error=true": {Kind: Registry, Ref: "a", Mode: Min, IgnoreError: true},
		"type=registry,ref=a,image-manifest=true,oci-mediatypes=true,mounts=true": {Kind: Registry, Ref: "a", Mode: Min, Mounts: true},
		`type=local,"dest=/with,comma"`:                                           {Kind: Local, Dir: "/with,comma", Tag: DefaultTag, Mode: Min},
	} {
		got, err := ParseTo(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for text, want := range map[string]string{
		"":                                     "want fields",
		"type=gha":                             "type=gha is not supported: use registry, inline or local",
		"type=registry":                        "needs ref=NAME",
		"type=local,src=/d":                    `"src" is not known`,
		"type=registry,ref=a,mode=most":        "mode=most: use min or max",
		"type=registry,ref=a,ignore-error=x":   "want true or false",
		"type=registry,ref=a,compression=zstd": "use --compression",
		"type=inline,mode=max":                 "for mode=max",
		"type=registry,ref":                    "want KEY=VALUE",
		"type=registry,ref=a,image-manifest=false": "not supported",
	} {
		_, err := ParseTo(text)
		require.ErrorContains(t, err, want, text)
	}
	_, err := ParseFrom("type=inline")
	require.ErrorContains(t, err, "type=registry,ref=IMAGE")
	_, err = ParseFrom("type=registry,ref=a,mode=max")
	require.ErrorContains(t, err, `"mode" is not known`)
}

func blobOf(content string) registry.Upload { return bytesBlob([]byte(content), types.OCILayer) }

func contentOf(contents ...string) Content {
	var c Content
	var records []Record
	for i, text := range contents {
		blob := blobOf(text)
		c.Blobs = append(c.Blobs, blob)
		records = append(records, Record{Key: digestN(i), Layer: &Layer{Digest: blob.Digest, DiffID: blob.Digest, Size: blob.Size, MediaType: types.OCILayer}})
	}
	c.Document = NewDocument("scope", records)
	return c
}

func TestLocalCacheIsAnOCILayoutAndKeepsNothingOld(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	ctx := context.Background()
	_, err := ToLocal(ctx, dir, "latest", contentOf("one", "two"))
	require.NoError(t, err)
	_, err = ToLocal(ctx, dir, "other", contentOf("two", "three"))
	require.NoError(t, err)
	done, err := ToLocal(ctx, dir, "latest", contentOf("two", "four"))
	require.NoError(t, err)
	require.Equal(t, int64(1), done.Present)

	path, err := layout.FromPath(dir)
	require.NoError(t, err)
	index, err := path.ImageIndex()
	require.NoError(t, err)
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	require.Len(t, manifest.Manifests, 2)
	blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	require.NoError(t, err)
	require.Len(t, blobs, 3+2*2, "two, three, four, and a document and a manifest each")

	got, err := FromLocal(dir, "latest")
	require.NoError(t, err)
	require.Equal(t, "scope", got.Scope)
	record, ok := got.Lookup(digestN(1))
	require.True(t, ok)
	require.True(t, got.Holds(record.Layer.Digest))
	stream, err := got.Blobs.Open(ctx, v1.Descriptor{Digest: record.Layer.Digest, Size: record.Layer.Size}, 0)
	require.NoError(t, err)
	data, err := io.ReadAll(stream)
	require.NoError(t, err)
	require.NoError(t, stream.Close())
	require.Equal(t, "four", string(data))
}

func TestALayoutThatLiesIsFoundOut(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	_, err := ToLocal(ctx, dir, "latest", contentOf("honest"))
	require.NoError(t, err)
	blob := blobOf("honest")
	file := filepath.Join(dir, "blobs", "sha256", blob.Digest.Hex)
	got, err := FromLocal(dir, "latest")
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(file, []byte("forged"), 0o600))
	stream, err := got.Blobs.Open(ctx, blob.Descriptor, 0)
	require.NoError(t, err)
	_, err = io.ReadAll(stream)
	var lie *registry.DigestError
	require.ErrorAs(t, err, &lie)

	var gone *GoneError
	require.NoError(t, os.WriteFile(file, []byte("longer than it was"), 0o600))
	_, err = got.Blobs.Open(ctx, blob.Descriptor, 0)
	require.ErrorAs(t, err, &gone)
	require.NoError(t, os.Remove(file))
	require.NoError(t, os.Symlink("/etc/passwd", file))
	_, err = got.Blobs.Open(ctx, blob.Descriptor, 0)
	require.Error(t, err, "a link that leads out")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{"manifests":[{"digest":"sha256:../../../etc/passwd","size":9,"annotations":{"org.opencontainers.image.ref.name":"latest"}}]}`), 0o600))
	_, err = FromLocal(dir, "latest")
	require.Error(t, err)
	_, err = ToLocal(ctx, dir, "latest", contentOf("new"))
	require.NoError(t, err, "a broken index does not stop a new cache")
	_, err = FromLocal(dir, "none")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestWritersOfOneLayoutDoNotHarmEachOther(t *testing.T) {
	dir := t.TempDir()
	errs := make(chan error, 8)
	for i := range cap(errs) {
		go func() {
			_, err := ToLocal(context.Background(), dir, fmt.Sprintf("t%d", i%4), contentOf("shared", fmt.Sprint(i)))
			errs <- err
		}()
	}
	for range cap(errs) {
		require.NoError(t, <-errs)
	}
	for i := range 4 {
		got, err := FromLocal(dir, fmt.Sprintf("t%d", i))
		require.NoError(t, err)
		record, _ := got.Lookup(digestN(0))
		stream, err := got.Blobs.Open(context.Background(), v1.Descriptor{Digest: record.Layer.Digest, Size: record.Layer.Size}, 0)
		require.NoError(t, err)
		_, err = io.ReadAll(stream)
		require.NoError(t, err)
	}
}
