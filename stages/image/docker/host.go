// Package docker hands images to a running Docker, or to what speaks its API.
package docker

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// DefaultHost is where Docker listens when nothing else is said.
const DefaultHost = "unix:///var/run/docker.sock"

// Host is where a Docker engine listens.
type Host struct {
	// URL is unix://PATH, tcp://HOST:PORT, http://HOST:PORT or https://HOST:PORT.
	URL string
	// From says where the address was found, for messages.
	From string
	// TLS is nil without it.
	TLS *tls.Config
}

// FindHost finds the engine that the docker command would use: DOCKER_HOST, the
// context of DOCKER_CONTEXT, the current one of its configuration, or DefaultHost.
func FindHost(getenv func(string) string) (Host, error) {
	if host := getenv("DOCKER_HOST"); host != "" {
		h := Host{URL: host, From: "DOCKER_HOST"}
		if getenv("DOCKER_TLS_VERIFY") == "" || !strings.HasPrefix(host, "tcp://") {
			return h, nil
		}
		dir := getenv("DOCKER_CERT_PATH")
		if dir == "" {
			dir = configuration(getenv)
		}
		var err error
		h.TLS, err = clientTLS(dir)
		return h, err
	}
	dir := configuration(getenv)
	name := getenv("DOCKER_CONTEXT")
	if name == "" {
		var config struct{ CurrentContext string }
		if err := readJSON(filepath.Join(dir, "config.json"), &config); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Host{}, err
		}
		name = config.CurrentContext
	}
	if name == "" || name == "default" {
		return Host{URL: DefaultHost, From: "the usual place"}, nil
	}
	sum := sha256.Sum256([]byte(name))
	var meta struct {
		Endpoints map[string]struct{ Host string }
	}
	file := filepath.Join(dir, "contexts", "meta", hex.EncodeToString(sum[:]), "meta.json")
	if err := readJSON(file, &meta); err != nil {
		return Host{}, fmt.Errorf("docker context %q: %w", name, err)
	}
	host := meta.Endpoints["docker"].Host
	if host == "" {
		return Host{}, fmt.Errorf("docker context %q names no host", name)
	}
	h := Host{URL: host, From: "the docker context " + name}
	certificates := filepath.Join(dir, "contexts", "tls", hex.EncodeToString(sum[:]), "docker")
	if _, err := os.Stat(filepath.Join(certificates, "ca.pem")); err == nil {
		if h.TLS, err = clientTLS(certificates); err != nil {
			return Host{}, err
		}
	}
	return h, nil
}

func configuration(getenv func(string) string) string {
	if dir := getenv("DOCKER_CONFIG"); dir != "" {
		return dir
	}
	return filepath.Join(getenv("HOME"), ".docker")
}

// maxFile bounds a file of the docker command's configuration, in bytes.
const maxFile = 1 << 20

func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxFile))
}

func readJSON(name string, into any) error {
	data, err := readFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// clientTLS reads ca.pem, cert.pem and key.pem, as the docker command has them.
func clientTLS(dir string) (*tls.Config, error) {
	data, err := readFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("certificates for Docker: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("certificates for Docker: %s has no certificate in PEM", filepath.Join(dir, "ca.pem"))
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, fmt.Errorf("certificates for Docker: %w", err)
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}
