package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

// destination is a repository with the tags to set in it.
type destination struct {
	repository name.Repository
	tags       []string
}

// destinations groups names by repository.
func destinations(client *registry.Client, names []string) ([]destination, error) {
	var all []destination
	for _, text := range names {
		ref, err := client.Destination(text)
		if err != nil {
			return nil, invalid(err)
		}
		tag, isTag := ref.(name.Tag)
		if !isTag {
			return nil, invalid(fmt.Errorf("image name %q: a digest can't be pushed to; use a tag, or none", text))
		}
		i := slices.IndexFunc(all, func(d destination) bool { return d.repository.Name() == ref.Context().Name() })
		if i < 0 {
			i = len(all)
			all = append(all, destination{repository: ref.Context()})
		}
		if registry.HasTag(text) {
			all[i].tags = append(all[i].tags, tag.TagStr())
		}
	}
	return all, nil
}

func (e *execution) push(ctx context.Context, result *Result) error {
	all, err := destinations(e.Registry, e.request.Tags)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return invalid(errors.New("there is no name to push to: give one with -t"))
	}
	for _, d := range all {
		if e.request.ByDigest {
			d.tags = nil
		}
		if err := e.pushTo(ctx, result, d); err != nil {
			return classify(err)
		}
	}
	return nil
}

func (e *execution) pushTo(ctx context.Context, result *Result, d destination) error {
	id := "push " + d.repository.Name()
	start := e.now()
	e.emit(progress.Event{Kind: progress.Start, Step: id, Text: "push " + d.repository.Name() + tagList(d.tags)})
	var total int64
	push := registry.Push{Repository: d.repository, Tags: d.tags, Manifest: result.tree()}
	for _, m := range result.manifests() {
		for _, blob := range m.Blobs {
			total += blob.Size
		}
	}
	push.Progress = e.transferred(id, total)
	pushed, err := e.Registry.Push(ctx, push)
	if err != nil {
		e.emit(stepFailed(id, err, e.now().Sub(start)))
		return err
	}
	result.repositories = append(result.repositories, d.repository)
	result.Stats.BlobsUploaded += pushed.Uploaded
	result.Stats.BlobsMounted += pushed.Mounted
	result.Stats.BlobsPresent += pushed.Present
	result.Stats.BytesUploaded += pushed.Bytes
	result.Pushed = append(result.Pushed, d.repository.Name()+"@"+pushed.Digest.String())
	e.emit(progress.Event{
		Kind: progress.Done, Step: id, Bytes: pushed.Bytes, Digest: pushed.Digest.String(), Duration: e.now().Sub(start),
		Text: fmt.Sprintf("%d blobs sent, %d mounted, %d there already", pushed.Uploaded, pushed.Mounted, pushed.Present),
	})
	return nil
}

// upload is a layer to push. What is not known to be elsewhere may be in the
// repositories that the image went to.
func (e *execution) upload(link chainLink, pushed []name.Repository) registry.Upload {
	upload := registry.Upload{
		Descriptor: v1.Descriptor{Digest: link.Digest, Size: link.Size, MediaType: link.MediaType},
		Open: func(ctx context.Context, offset int64) (io.ReadCloser, error) {
			return openLink(ctx, e.Store, link, offset)
		},
	}
	if link.from != nil {
		upload.Found = link.from.Repository()
	} else if len(pushed) > 0 {
		upload.Found = pushed[0]
	}
	return upload
}

// transferred makes progress events of what goes up.
func (e *execution) transferred(id string, total int64) func(v1.Hash, int64) {
	var mu sync.Mutex
	var sent, told int64
	return func(_ v1.Hash, n int64) {
		mu.Lock()
		defer mu.Unlock()
		if sent += n; sent-told >= movedEvery {
			told = sent
			e.emit(progress.Event{Kind: progress.Moved, Step: id, Bytes: sent, Total: total})
		}
	}
}

func tagList(tags []string) string {
	if len(tags) == 0 {
		return " by digest"
	}
	return ":" + strings.Join(tags, ", :")
}

// tree is the result as a registry takes it.
func (r *Result) tree() registry.Manifest {
	var all []registry.Manifest
	for _, m := range r.manifests() {
		all = append(all, registry.Manifest{Raw: m.Raw, MediaType: m.MediaType, Blobs: m.Blobs})
	}
	if r.Index == nil {
		return all[0]
	}
	return registry.Manifest{Raw: r.Index, MediaType: r.Descriptor.MediaType, Manifests: all}
}
