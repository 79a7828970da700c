// Package sign signs images and statements about them, and verifies signatures,
// with keys, in the forms of cosign: what is signed here `cosign verify --key`
// accepts, and the other way round. Keys and signatures are sigstore's; the
// transparency log is not used.
package sign

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// MaxKey bounds a key's file, in bytes.
const MaxKey = 64 << 10

// Key signs.
type Key struct {
	signer signature.Signer
	public *PublicKey
}

// ErrPassword says that an encrypted key was not opened by the password given.
var ErrPassword = errors.New("the key is encrypted and the password does not open it")

// LoadKey reads a private key in PEM: cosign's and sigstore's encrypted form
// (opened by the password), PKCS#8, SEC 1 or PKCS#1. Error texts never hold any
// of the key or the password. A nil password means that none is known.
func LoadKey(pem, password []byte) (*Key, error) {
	if len(pem) > MaxKey {
		return nil, fmt.Errorf("signing key: larger than %d bytes", MaxKey)
	}
	encrypted := bytes.Contains(pem, []byte("-----BEGIN ENCRYPTED ")) || bytes.Contains(pem, []byte("\nProc-Type: 4,ENCRYPTED"))
	if encrypted && password == nil {
		return nil, errors.New("signing key: it is encrypted: give its password as COSIGN_PASSWORD")
	}
	private, err := cryptoutils.UnmarshalPEMToPrivateKey(pem, cryptoutils.StaticPasswordFunc(password))
	if err != nil {
		if encrypted {
			return nil, fmt.Errorf("signing key: %w", ErrPassword)
		}
		// The parser's own words may quote what it read.
		return nil, errors.New("signing key: not a private key in PEM (cosign's encrypted form, PKCS#8, SEC 1 or PKCS#1)")
	}
	signer, err := signature.LoadSigner(private, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing key: of a kind that can't sign: %T", private)
	}
	public, err := signer.PublicKey()
	if err != nil {
		return nil, errors.New("signing key: it has no public key")
	}
	k := &Key{signer: signer}
	if k.public, err = newPublicKey(public); err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	return k, nil
}

// Public is the key that verifies what this one signs.
func (k *Key) Public() *PublicKey { return k.public }

// Generate makes a pair of ECDSA P-256 keys in PEM, the private one encrypted
// with the password (in sigstore's form), or PKCS#8 if the password is nil.
func Generate(password []byte) (private, public []byte, err error) {
	return cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), cryptoutils.StaticPasswordFunc(password))
}

// PublicKey verifies.
type PublicKey struct {
	verifier signature.Verifier
	der      []byte
}

// LoadPublicKey reads a public key in PEM. Keys too weak to mean anything are
// refused.
func LoadPublicKey(pem []byte) (*PublicKey, error) {
	if len(pem) > MaxKey {
		return nil, fmt.Errorf("public key: larger than %d bytes", MaxKey)
	}
	key, err := cryptoutils.UnmarshalPEMToPublicKey(pem)
	if err != nil {
		return nil, errors.New("public key: not a public key in PEM (BEGIN PUBLIC KEY)")
	}
	public, err := newPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return public, nil
}

// minRSA is what sigstore asks of RSA keys, in bits.
const minRSA = 2048

func newPublicKey(key crypto.PublicKey) (*PublicKey, error) {
	if rsaKey, ok := key.(*rsa.PublicKey); ok && rsaKey.N.BitLen() < minRSA {
		return nil, fmt.Errorf("an RSA key of %d bits is too weak: use %d or more, or ECDSA", rsaKey.N.BitLen(), minRSA)
	}
	verifier, err := signature.LoadVerifier(key, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	der, err := cryptoutils.MarshalPublicKeyToDER(key)
	if err != nil {
		return nil, err
	}
	return &PublicKey{verifier: verifier, der: der}, nil
}

// PEM is the key as cosign.pub holds it.
func (k *PublicKey) PEM() []byte { return cryptoutils.PEMEncode(cryptoutils.PublicKeyPEMType, k.der) }

// ID names the key for people: the SHA-256 of its DER form.
func (k *PublicKey) ID() string {
	sum := sha256.Sum256(k.der)
	return "sha256:" + hex.EncodeToString(sum[:])
}
