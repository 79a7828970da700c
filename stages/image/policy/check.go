package policy

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/tidegate-ci/tidegate/stages/image/sign"
)

// ViolationError says that a policy does not allow an image, and what to do.
type ViolationError struct {
	Image string
	// Rule is where the policy says so.
	Rule string
	// Reason is what is wrong, Remedy what to do about it.
	Reason, Remedy string
	Err            error
}

func (e *ViolationError) Error() string {
	text := fmt.Sprintf("the image policy refuses %s: %s", e.Image, e.Reason)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return fmt.Sprintf("%s (%s); %s", text, e.Rule, e.Remedy)
}

func (e *ViolationError) Unwrap() error { return e.Err }

// Admit judges an image by its name alone, before any registry is asked.
func (p *Policy) Admit(ref name.Reference) error {
	if p == nil {
		return nil
	}
	r := p.decide(ref)
	if r == nil {
		if p.denied == "" {
			return nil
		}
		return &ViolationError{
			Image: ref.String(), Rule: p.Name, Reason: p.denied,
			Remedy: "use an image the policy allows, or ask its owner for a rule for " + repositoryOf(ref),
		}
	}
	if r.deny != "" {
		return &ViolationError{Image: ref.String(), Rule: r.position, Reason: "it is denied", Remedy: r.deny}
	}
	if _, ok := ref.(name.Digest); r.digest && !ok {
		return &ViolationError{
			Image: ref.String(), Rule: r.position, Reason: "it is named by tag",
			Remedy: "name it by digest: " + ref.Context().Name() + "@sha256:…",
		}
	}
	return nil
}

// Resolved is what a name turned out to mean: the digests by which the build
// goes on, so that what is verified is what is used.
type Resolved struct {
	// Found is where it was found, which may be a mirror.
	Found name.Repository
	// Index is the digest of the index the name means, zero without one;
	// Manifest is the image's that was chosen from it.
	Index, Manifest v1.Hash
}

// Verify judges what a name means. A signature counts when it is of the index,
// which holds the digest of the image, or of the image itself. It is looked for
// where the image was found, and else where its name says.
func (p *Policy) Verify(ctx context.Context, r sign.Registry, ref name.Reference, image Resolved) error {
	if err := p.Admit(ref); err != nil || p == nil {
		return err
	}
	rule := p.decide(ref)
	if rule == nil || len(rule.keys) == 0 {
		return nil
	}
	var last error
	for _, repository := range places(image.Found, ref.Context()) {
		for _, digest := range []v1.Hash{image.Index, image.Manifest} {
			if digest.Hex == "" {
				continue
			}
			_, err := sign.Verify(ctx, r, repository.Digest(digest.String()), rule.keys)
			if err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// That one place can't be asked may not hide that the other says no,
			// and what is said is about what the name means.
			var unsigned *sign.NotSignedError
			if last == nil || !errors.As(last, &unsigned) {
				last = err
			}
		}
	}
	var unsigned *sign.NotSignedError
	if !errors.As(last, &unsigned) {
		return fmt.Errorf("look for the signature of %s that %s demands: %w", ref, rule.position, last)
	}
	return &ViolationError{
		Image: ref.String(), Rule: rule.position, Reason: "it is not signed as it must be", Err: last,
		Remedy: "use a version that is signed by the key, or have this one signed: tidegate image sign --key … " + ref.Context().Name() + "@" + first(image.Index, image.Manifest),
	}
}

func first(hashes ...v1.Hash) string {
	for _, h := range hashes {
		if h.Hex != "" {
			return h.String()
		}
	}
	return ""
}

func places(found, named name.Repository) []name.Repository {
	if found.Name() == named.Name() {
		return []name.Repository{found}
	}
	return []name.Repository{found, named}
}
