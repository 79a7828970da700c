package sign

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/sigstore/pkg/signature/dsse"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/tidegate-ci/tidegate/stages/image/attest"
)

// Signature is a simple signing payload with its signature.
type Signature struct {
	Payload   []byte
	Signature []byte
}

// ErrNotBy says that a signature is of another key.
var ErrNotBy = errors.New("not signed by this key")

// sign signs an image's digest, with annotations (which may be nil).
func (k *Key) sign(image name.Digest, annotations map[string]string) (Signature, error) {
	simple := payload.Cosign{Image: image}
	for name, value := range annotations {
		if simple.Annotations == nil {
			simple.Annotations = map[string]any{}
		}
		simple.Annotations[name] = value
	}
	raw, err := json.Marshal(simple)
	if err != nil {
		return Signature{}, fmt.Errorf("encode what is signed: %w", err)
	}
	made, err := k.signer.SignMessage(bytes.NewReader(raw))
	if err != nil {
		return Signature{}, fmt.Errorf("sign %s: %w", image, err)
	}
	return Signature{raw, made}, nil
}

// verify checks that s is by the key and about the image with the digest.
func (k *PublicKey) verify(s Signature, digest v1.Hash) error {
	if err := k.verifier.VerifySignature(bytes.NewReader(s.Signature), bytes.NewReader(s.Payload)); err != nil {
		return ErrNotBy
	}
	var simple payload.SimpleContainerImage
	if err := json.Unmarshal(s.Payload, &simple); err != nil {
		return errors.New("what was signed is no simple signing document")
	}
	if simple.Critical.Type != payload.CosignSignatureType {
		return errors.New("what was signed is no container image signature")
	}
	if simple.Critical.Image.DockerManifestDigest != digest.String() {
		return errors.New("the signature is of another image")
	}
	return nil
}

// envelope signs a statement: a DSSE envelope as JSON.
func (k *Key) envelope(statement attest.Statement) ([]byte, error) {
	raw, err := json.Marshal(statement)
	if err != nil {
		return nil, fmt.Errorf("encode statement: %w", err)
	}
	made, err := dsse.WrapSigner(k.signer, attest.PayloadType).SignMessage(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	return made, nil
}

// open checks that a DSSE envelope is by the key and holds a statement about
// the image with the digest, and gives that.
func (k *PublicKey) open(envelope []byte, digest v1.Hash) (attest.Statement, error) {
	var raw []byte
	verifier := dsse.WrapVerifier(k.verifier, dsse.WithExpectedPayloadType(attest.PayloadType), dsse.WithDecodedPayload(&raw))
	if err := verifier.VerifySignature(bytes.NewReader(envelope), nil); err != nil {
		return attest.Statement{}, ErrNotBy
	}
	statement, err := attest.ParseStatement(raw)
	if err != nil {
		return attest.Statement{}, err
	}
	if !statement.About(digest) {
		return attest.Statement{}, errors.New("the statement is about another image")
	}
	return statement, nil
}

// predicateSignature is the predicate of a statement by which cosign 3 signs an
// image.
const predicateSignature = "https://sigstore.dev/cosign/sign/v1"

// bundleType begins the media type of sigstore's bundles; a version follows.
const bundleType = "application/vnd.dev.sigstore.bundle"

// bundle is as much of a sigstore bundle as a key needs: no certificate and no
// log entry counts here.
type bundle struct {
	MediaType    string          `json:"mediaType"`
	DSSEEnvelope json.RawMessage `json:"dsseEnvelope"`
}

// envelopeOf takes the envelope out of a bundle.
func envelopeOf(raw []byte) ([]byte, error) {
	var b bundle
	if err := json.Unmarshal(raw, &b); err != nil {
		return nil, errors.New("not a sigstore bundle")
	}
	if len(b.DSSEEnvelope) == 0 {
		return nil, errors.New("the bundle has no DSSE envelope")
	}
	return b.DSSEEnvelope, nil
}

func decodeSignature(text string) ([]byte, error) {
	const most = 16 << 10
	if len(text) > most {
		return nil, fmt.Errorf("signature is larger than %d bytes", most)
	}
	return base64.StdEncoding.DecodeString(text)
}
