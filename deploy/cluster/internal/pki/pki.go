// Package pki makes the certificates of a cluster: authorities, and identities
// that one of them vouches for. What is on disk and still good is kept.
package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	authorityValidity = 10 * 365 * 24 * time.Hour
	identityValidity  = 365 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is replaced.
	renewBefore = 30 * 24 * time.Hour
	// clockSkew backdates certificates for clocks that are a little behind.
	clockSkew = 5 * time.Minute
)

// Identity is whom a certificate names. Group becomes the organisation, which
// Kubernetes reads as a group (x509 client authentication).
type Identity struct {
	// File is the base name of the .crt and .key files.
	File string
	// Authority is the File of the authority that signs.
	Authority string
	User      string
	Group     string
	// DNS and IPs, if any, make it a serving certificate for these names.
	DNS []string
	IPs []netip.Addr
	// Client makes it a client certificate.
	Client bool
}

type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Ensure makes sure that dir holds a good key pair for every authority and
// identity, issuing what is missing, about to end at now, or different from
// what is asked for.
func Ensure(dir string, authorities []string, identities []Identity, now time.Time) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	cas := map[string]pair{}
	for _, name := range authorities {
		ca, err := ensureAuthority(dir, name, now)
		if err != nil {
			return err
		}
		cas[name] = ca
	}
	for _, id := range identities {
		ca, ok := cas[id.Authority]
		if !ok {
			return fmt.Errorf("certificate %s: no authority %q", id.File, id.Authority)
		}
		if old, err := load(dir, id.File); err == nil && good(old.cert, ca.cert, id, now) {
			continue
		}
		if err := issue(dir, id, ca, now); err != nil {
			return err
		}
	}
	return nil
}

func ensureAuthority(dir, name string, now time.Time) (pair, error) {
	if old, err := load(dir, name); err == nil && old.cert.IsCA && now.Add(identityValidity).Before(old.cert.NotAfter) {
		return old, nil
	}
	template, err := newTemplate(pkix.Name{CommonName: name}, now, authorityValidity)
	if err != nil {
		return pair{}, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	return create(dir, name, template, nil)
}

func issue(dir string, id Identity, ca pair, now time.Time) error {
	subject := pkix.Name{CommonName: id.User}
	if id.Group != "" {
		subject.Organization = []string{id.Group}
	}
	template, err := newTemplate(subject, now, identityValidity)
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = usages(id)
	template.DNSNames = id.DNS
	for _, ip := range id.IPs {
		template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
	}
	_, err = create(dir, id.File, template, &ca)
	return err
}

func usages(id Identity) []x509.ExtKeyUsage {
	var usages []x509.ExtKeyUsage
	if len(id.DNS)+len(id.IPs) > 0 {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	if id.Client {
		usages = append(usages, x509.ExtKeyUsageClientAuth)
	}
	return usages
}

// good reports whether cert says what id asks for, is signed by ca, and lasts.
func good(cert, ca *x509.Certificate, id Identity, now time.Time) bool {
	var ips []netip.Addr
	for _, ip := range cert.IPAddresses {
		addr, _ := netip.AddrFromSlice(ip)
		ips = append(ips, addr.Unmap())
	}
	var groups []string
	if id.Group != "" {
		groups = []string{id.Group}
	}
	return cert.CheckSignatureFrom(ca) == nil &&
		now.After(cert.NotBefore) && now.Add(renewBefore).Before(cert.NotAfter) &&
		cert.Subject.CommonName == id.User &&
		slices.Equal(cert.Subject.Organization, groups) &&
		slices.Equal(cert.DNSNames, id.DNS) &&
		slices.Equal(ips, id.IPs) &&
		slices.Equal(cert.ExtKeyUsage, usages(id))
}

func newTemplate(subject pkix.Name, now time.Time, validity time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", subject.CommonName, err)
	}
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      subject,
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(validity),
	}, nil
}

// create makes a key, has ca sign template for it (itself if ca is nil) and
// stores both.
func create(dir, file string, template *x509.Certificate, ca *pair) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, fmt.Errorf("certificate %s: %w", file, err)
	}
	parent, signer := template, key
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return pair{}, fmt.Errorf("certificate %s: %w", file, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return pair{}, fmt.Errorf("certificate %s: %w", file, err)
	}
	if err := writeKey(filepath.Join(dir, file+".key"), key); err != nil {
		return pair{}, err
	}
	return pair{cert, key}, writePEM(filepath.Join(dir, file+".crt"), "CERTIFICATE", der)
}

// EnsureSigningKey makes sure that dir holds the key pair file.key and
// file.pub, which has no certificate: service account tokens are signed with it.
func EnsureSigningKey(dir, file string) error {
	keyPath := filepath.Join(dir, file+".key")
	key, err := loadKey(keyPath)
	if err != nil {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return fmt.Errorf("signing key %s: %w", file, err)
		}
		if err := writeKey(keyPath, key); err != nil {
			return err
		}
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return fmt.Errorf("signing key %s: %w", file, err)
	}
	return writePEM(filepath.Join(dir, file+".pub"), "PUBLIC KEY", der)
}

func load(dir, file string) (pair, error) {
	data, err := os.ReadFile(filepath.Join(dir, file+".crt"))
	if err != nil {
		return pair{}, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return pair{}, fmt.Errorf("%s.crt holds no PEM block", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return pair{}, err
	}
	key, err := loadKey(filepath.Join(dir, file+".key"))
	if err != nil {
		return pair{}, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return pair{}, fmt.Errorf("%s.key does not belong to %s.crt", file, file)
	}
	return pair{cert, key}, nil
}

func loadKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM block", path)
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("key %s: %w", path, err)
	}
	return writePEM(path, "EC PRIVATE KEY", der)
}

// writePEM replaces path as a whole, so that a kill in between leaves no half.
func writePEM(path, kind string, der []byte) error {
	var buf bytes.Buffer
	if err := pem.Encode(&buf, &pem.Block{Type: kind, Bytes: der}); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path+".new", buf.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
