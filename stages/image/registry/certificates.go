package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Certificates say which further authorities vouch for a host, and how this
// machine shows who it is. The zero value is the system's authorities alone.
type Certificates struct {
	// Authorities are files of PEM certificates by registry host (with port).
	Authorities map[string][]string
	// Directories hold a directory for each host as Docker has them below
	// /etc/docker/certs.d: *.crt are authorities, NAME.cert and NAME.key a
	// client's certificate and key. Directories that do not exist are left out.
	Directories []string
}

// maxPEM bounds a file of certificates, in bytes.
const maxPEM = 4 << 20

// config gives the TLS settings for a host; nil when it has none of its own.
func (c Certificates) config(host string) (*tls.Config, error) {
	files := c.Authorities[host]
	var pairs []string
	if !strings.ContainsAny(host, `/\`) && host != "." && host != ".." {
		for _, dir := range c.Directories {
			entries, err := os.ReadDir(filepath.Join(dir, host))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("certificates of registry %s: %w", host, err)
			}
			for _, entry := range entries {
				switch name := filepath.Join(dir, host, entry.Name()); filepath.Ext(name) {
				case ".crt":
					files = append(files[:len(files):len(files)], name)
				case ".cert":
					pairs = append(pairs, name)
				}
			}
		}
	}
	if len(files)+len(pairs) == 0 {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if err := authorities(config, files); err != nil {
		return nil, fmt.Errorf("certificates of registry %s: %w", host, err)
	}
	for _, cert := range pairs {
		pair, err := tls.LoadX509KeyPair(cert, strings.TrimSuffix(cert, ".cert")+".key")
		if err != nil {
			return nil, fmt.Errorf("certificates of registry %s: %w", host, err)
		}
		config.Certificates = append(config.Certificates, pair)
	}
	return config, nil
}

func authorities(config *tls.Config, files []string) error {
	if len(files) == 0 {
		return nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, name := range files {
		data, err := readFile(name)
		if err != nil {
			return err
		}
		if !pool.AppendCertsFromPEM(data) {
			return fmt.Errorf("%s has no certificate in PEM", name)
		}
	}
	config.RootCAs = pool
	return nil
}

func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxPEM+1))
	if err == nil && len(data) > maxPEM {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxPEM)
	}
	return data, err
}

// carriers are the transports of hosts that have TLS settings of their own.
type carriers struct {
	common       http.RoundTripper
	certificates Certificates
	// unverified are hosts whose certificates are not checked.
	unverified func(host string) bool

	mu  sync.Mutex
	own map[string]http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (c *carriers) RoundTrip(request *http.Request) (*http.Response, error) {
	carrier, err := c.carrier(request.URL.Host)
	if err != nil {
		return nil, &permanentError{err}
	}
	return carrier.RoundTrip(request)
}

func (c *carriers) carrier(host string) (http.RoundTripper, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.own[host]; known != nil {
		return known, nil
	}
	config, err := c.certificates.config(host)
	if err != nil {
		return nil, err
	}
	carrier := c.common
	if c.unverified(host) {
		if config == nil {
			config = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		config.InsecureSkipVerify = true // whoever runs this named the host as insecure
	}
	if config != nil {
		own := newTransport()
		own.TLSClientConfig = config
		carrier = own
	}
	c.own[host] = carrier
	return carrier, nil
}
