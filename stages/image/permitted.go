package image

import (
	"context"
	"errors"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/policy"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

// resolve finds the image a reference means, if the policies allow it. The
// digests that they judge are those by which the build goes on.
func (e *execution) resolve(ctx context.Context, reference string, platform v1.Platform) (*registry.Image, error) {
	ref, err := e.Registry.Source(reference)
	if err != nil {
		return nil, err
	}
	policies := []*policy.Policy{e.Policy, e.request.Policy}
	for _, p := range policies {
		if err := p.Admit(ref); err != nil {
			return nil, refused(err)
		}
	}
	image, err := e.Registry.Resolve(ctx, reference, platform, documents{e})
	if err != nil {
		return nil, err
	}
	for _, p := range policies {
		err := p.Verify(ctx, e.Registry, ref, policy.Resolved{Found: image.Repository, Index: image.Index, Manifest: image.Digest})
		if err != nil {
			return nil, refused(err)
		}
	}
	return image, nil
}

// admitLayout refuses images of OCI layouts where a policy holds: nothing beside
// them says who made them.
func (e *execution) admitLayout(of plan.Reference) error {
	if of.Context == "" || e.Policy == nil && e.request.Policy == nil {
		return nil
	}
	return pipeline.Fail(pipeline.CauseRefused, "an image policy holds here, and the image %s of an OCI layout can't be held to it: push it to a registry", of.Name)
}

// refused gives a violation its cause; what else went wrong keeps its own.
func refused(err error) error {
	var violation *policy.ViolationError
	if errors.As(err, &violation) {
		return &pipeline.Error{Cause: pipeline.CauseRefused, Err: err}
	}
	return err
}
