package sign

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/tidegate-ci/tidegate/stages/image/attest"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

// Registry is where images and what belongs to them are. *registry.Client is one.
type Registry interface {
	Artifact(ctx context.Context, ref name.Reference) (registry.Artifact, error)
	Content(ctx context.Context, repo name.Repository, descriptor v1.Descriptor, most int64) ([]byte, error)
	Referrers(ctx context.Context, image name.Digest) ([]v1.Descriptor, error)
	Push(ctx context.Context, push registry.Push) (registry.Pushed, error)
}

// Media types and annotations of cosign's storage (its specs/SIGNATURE_SPEC.md
// and ATTESTATION_SPEC.md).
const (
	simpleSigningType   = "application/vnd.dev.cosign.simplesigning.v1+json"
	envelopeType        = "application/vnd.dsse.envelope.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	predicateAnnotation = "predicateType"
)

// Suffixes of the tags that hold an image's signatures and attestations.
const (
	signatureSuffix   = ".sig"
	attestationSuffix = ".att"
)

// Bounds of what is read when verifying: more signatures are not looked at.
const (
	maxSignatures = 64
	maxPayload    = 1 << 20
)

// tagOf is where cosign keeps what belongs to an image.
func tagOf(image name.Digest, suffix string) name.Tag {
	return image.Context().Tag(strings.Replace(image.DigestStr(), ":", "-", 1) + suffix)
}

// Sign puts a signature of the image beside it. One that the key made before is
// left as it is, and so are those of other keys; it tells whether it made one.
func Sign(ctx context.Context, r Registry, image name.Digest, key *Key, annotations map[string]string) (bool, error) {
	digest, err := v1.NewHash(image.DigestStr())
	if err != nil {
		return false, fmt.Errorf("sign %s: %w", image, err)
	}
	have, err := open(ctx, r, tagOf(image, signatureSuffix))
	if err != nil {
		return false, fmt.Errorf("sign %s: look for its signatures: %w", image, err)
	}
	if len(annotations) == 0 {
		for _, s := range have.signatures(ctx, r) {
			if key.public.verify(s, digest) == nil {
				return false, nil
			}
		}
	}
	made, err := key.sign(image, annotations)
	if err != nil {
		return false, err
	}
	if err := have.addSignature(made); err != nil {
		return false, err
	}
	if err := have.push(ctx, r); err != nil {
		return false, fmt.Errorf("sign %s: %w", image, err)
	}
	return true, nil
}

// NotSignedError says that an image has no signature, or statement, by a key
// that was asked for.
type NotSignedError struct {
	Image name.Digest
	// Found counts what was there and did not do; Why is about the last of them.
	Found int
	Why   error
	// What is sought: "signature", or the type of a predicate.
	What string
}

func (e *NotSignedError) Error() string {
	if e.Found == 0 {
		return fmt.Sprintf("%s has no %s", e.Image, e.What)
	}
	return fmt.Sprintf("%s has %d of %s, none of which is valid for the key: %v", e.Image, e.Found, e.What, e.Why)
}

func (e *NotSignedError) Unwrap() error { return e.Why }

// Verify finds a signature of the image by any of the keys, and tells whose. It
// reads both where cosign 2 keeps signatures and the bundles of cosign 3.
func Verify(ctx context.Context, r Registry, image name.Digest, keys []*PublicKey) (*PublicKey, error) {
	digest, err := v1.NewHash(image.DigestStr())
	if err != nil {
		return nil, fmt.Errorf("verify %s: %w", image, err)
	}
	if len(keys) == 0 {
		return nil, errors.New("no key to verify with")
	}
	missing := &NotSignedError{Image: image, What: "signature"}
	have, err := open(ctx, r, tagOf(image, signatureSuffix))
	if err != nil {
		return nil, fmt.Errorf("look for signatures of %s: %w", image, err)
	}
	for _, s := range have.signatures(ctx, r) {
		missing.Found++
		for _, key := range keys {
			if missing.Why = key.verify(s, digest); missing.Why == nil {
				return key, nil
			}
		}
	}
	bundles, err := bundlesOf(ctx, r, image)
	if err != nil {
		return nil, err
	}
	for _, envelope := range bundles {
		missing.Found++
		for _, key := range keys {
			statement, err := key.open(envelope, digest)
			if err == nil && statement.PredicateType == predicateSignature {
				return key, nil
			}
			if missing.Why = err; err == nil {
				missing.Why = fmt.Errorf("it says %s, which is no signature of the image", statement.PredicateType)
			}
		}
	}
	return nil, missing
}

// Attest puts signed statements about the image beside it. Statements that are
// there are left, equal ones are not added again.
func Attest(ctx context.Context, r Registry, image name.Digest, key *Key, statements []attest.Statement) error {
	digest, err := v1.NewHash(image.DigestStr())
	if err != nil {
		return fmt.Errorf("attest %s: %w", image, err)
	}
	have, err := open(ctx, r, tagOf(image, attestationSuffix))
	if err != nil {
		return fmt.Errorf("attest %s: look for its attestations: %w", image, err)
	}
	var known []attest.Statement
	for _, envelope := range have.envelopes(ctx, r) {
		if statement, err := key.public.open(envelope, digest); err == nil {
			known = append(known, statement)
		}
	}
	added := false
	for _, statement := range statements {
		if !statement.About(digest) {
			return fmt.Errorf("attest %s: the statement is about another image", image)
		}
		if holds(known, statement) {
			continue
		}
		envelope, err := key.envelope(statement)
		if err != nil {
			return err
		}
		if err := have.addEnvelope(envelope, statement.PredicateType); err != nil {
			return err
		}
		added = true
	}
	if !added {
		return nil
	}
	if err := have.push(ctx, r); err != nil {
		return fmt.Errorf("attest %s: %w", image, err)
	}
	return nil
}

func holds(known []attest.Statement, s attest.Statement) bool {
	for _, k := range known {
		if k.PredicateType == s.PredicateType && string(k.Predicate) == string(s.Predicate) {
			return true
		}
	}
	return false
}

// VerifyAttestations gives the statements about the image with the predicate
// type that any of the keys signed; none is a *NotSignedError. An empty type
// means any.
func VerifyAttestations(ctx context.Context, r Registry, image name.Digest, keys []*PublicKey, predicateType string) ([]attest.Statement, error) {
	digest, err := v1.NewHash(image.DigestStr())
	if err != nil {
		return nil, fmt.Errorf("verify %s: %w", image, err)
	}
	if len(keys) == 0 {
		return nil, errors.New("no key to verify with")
	}
	have, err := open(ctx, r, tagOf(image, attestationSuffix))
	if err != nil {
		return nil, fmt.Errorf("look for attestations of %s: %w", image, err)
	}
	envelopes := have.envelopes(ctx, r)
	bundles, err := bundlesOf(ctx, r, image)
	if err != nil {
		return nil, err
	}
	missing := &NotSignedError{Image: image, What: "signed attestation"}
	if predicateType != "" {
		missing.What = "signed attestation of type " + predicateType
	}
	var found []attest.Statement
	for _, envelope := range append(envelopes, bundles...) {
		missing.Found++
		for _, key := range keys {
			statement, err := key.open(envelope, digest)
			switch {
			case err != nil:
				missing.Why = err
				continue
			case statement.PredicateType == predicateSignature && predicateType == "":
				continue // a signature, not a statement of anything
			case predicateType != "" && statement.PredicateType != predicateType:
				missing.Why = fmt.Errorf("it is of type %s", statement.PredicateType)
				continue
			}
			found = append(found, statement)
			break
		}
	}
	if len(found) == 0 {
		return nil, missing
	}
	return found, nil
}
