package sign

import (
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func FuzzEnvelope(f *testing.F) {
	private, _, err := Generate(nil)
	if err != nil {
		f.Fatal(err)
	}
	key, err := LoadKey(private, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AA=="}]}}`))
	f.Add([]byte(`{"dsseEnvelope":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		envelope, err := envelopeOf(data)
		if err != nil {
			envelope = data
		}
		if _, err := key.public.open(envelope, v1.Hash{Algorithm: "sha256", Hex: "00"}); err == nil {
			t.Fatal("something unsigned verifies")
		}
		if key.public.verify(Signature{Payload: data, Signature: data}, v1.Hash{}) == nil {
			t.Fatal("something unsigned verifies")
		}
	})
}
