package deploy

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Registry finds digests by asking the image's registry. The zero value uses
// the machine's Docker credentials.
type Registry struct {
	Keychain  authn.Keychain
	Transport http.RoundTripper
}

// Resolve implements manifest.Resolver.
func (r Registry) Resolve(ctx context.Context, reference string) (string, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", reference, err)
	}
	keychain := r.Keychain
	if keychain == nil {
		keychain = authn.DefaultKeychain
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(keychain), remote.WithUserAgent("tidegate")}
	if r.Transport != nil {
		options = append(options, remote.WithTransport(r.Transport))
	}
	descriptor, err := remote.Head(ref, options...)
	if err != nil {
		var status *transport.Error
		if errors.As(err, &status) && status.StatusCode == http.StatusNotFound {
			return "", fmt.Errorf("the registry %s has no %s", ref.Context().RegistryStr(), ref.Identifier())
		}
		return "", fmt.Errorf("asking the registry %s: %w", ref.Context().RegistryStr(), err)
	}
	return ref.Context().Digest(descriptor.Digest.String()).String(), nil
}
