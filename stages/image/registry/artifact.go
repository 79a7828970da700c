package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Artifact is a manifest or index as a registry has it.
type Artifact struct {
	Repository name.Repository
	Digest     v1.Hash
	MediaType  types.MediaType
	Raw        []byte
}

// Artifact fetches the manifest or index that a reference means, from where it
// says: mirrors are not asked.
func (c *Client) Artifact(ctx context.Context, ref name.Reference) (Artifact, error) {
	var want v1.Hash
	if d, ok := ref.(name.Digest); ok {
		var err error
		if want, err = v1.NewHash(d.DigestStr()); err != nil {
			return Artifact{}, &permanentError{fmt.Errorf("image name %s: %w", ref, err)}
		}
	}
	a := Artifact{Repository: ref.Context()}
	err := c.do(ctx, func() error {
		s, err := c.puller(ctx, ref.Context())
		if err != nil {
			return err
		}
		a.Raw, a.MediaType, err = s.manifest(ctx, ref.Identifier(), want, c)
		return err
	})
	if err != nil {
		return Artifact{}, fmt.Errorf("fetch %s: %w", ref, err)
	}
	a.Digest, _, err = v1.SHA256(bytes.NewReader(a.Raw))
	return a, err
}

// Content fetches a blob whole, if it is not larger than most bytes.
func (c *Client) Content(ctx context.Context, repo name.Repository, descriptor v1.Descriptor, most int64) ([]byte, error) {
	if descriptor.Size < 0 || descriptor.Size > most {
		return nil, &permanentError{fmt.Errorf("%s in %s has %d bytes: more than the %d allowed", descriptor.Digest, repo, descriptor.Size, most)}
	}
	content, err := c.Blob(ctx, repo, descriptor, 0)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(content)
	return raw, errors.Join(err, content.Close())
}

// Referrers lists what refers to an image (OCI distribution 1.1), by the API or,
// where a registry has none, by the tag that clients keep in its place.
func (c *Client) Referrers(ctx context.Context, image name.Digest) ([]v1.Descriptor, error) {
	var raw []byte
	err := c.do(ctx, func() error {
		s, err := c.puller(ctx, image.Context())
		if err != nil {
			return err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url("referrers/%s", image.DigestStr()), nil)
		if err != nil {
			return &permanentError{err}
		}
		request.Header.Set("Accept", string(types.OCIImageIndex))
		response, err := s.client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK || !strings.HasPrefix(response.Header.Get("Content-Type"), string(types.OCIImageIndex)) {
			if response.StatusCode == http.StatusOK || response.StatusCode < http.StatusInternalServerError && response.StatusCode != http.StatusTooManyRequests {
				raw = nil
				return nil // no such API
			}
			return statusError(response, c.options.Retry.Now())
		}
		raw, err = readDocument(response.Body)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list what refers to %s: %w", image, err)
	}
	if raw == nil {
		artifact, err := c.Artifact(ctx, image.Context().Tag(strings.Replace(image.DigestStr(), ":", "-", 1)))
		if NotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		raw = artifact.Raw
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("list what refers to %s: %w", image, err)
	}
	return index.Manifests, nil
}
