package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/process"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/render"
)

const (
	probeTimeout  = 3 * time.Second
	probeInterval = 50 * time.Millisecond
	// maxAnswer bounds what is read of a health answer.
	maxAnswer = 4 << 10
	// tailLines is how much of a log is shown with a failure.
	tailLines = 15
)

// probe asks a process whether it is healthy.
func (c *Cluster) probe(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	p := render.HealthOf(name, c.Settings)
	if p.Socket != "" {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", p.Socket)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if p.CA != "" {
		config, err := tlsConfig(p.CA, p.Cert, p.Key)
		if err != nil {
			return err
		}
		client.Transport = &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", p.URL, response.Status, strings.Join(strings.Fields(string(body)), " "))
	}
	return nil
}

func tlsConfig(ca, cert, key string) (*tls.Config, error) {
	data, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s holds no certificate", ca)
	}
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// await waits until check succeeds. If child ends before that, or ctx does, the
// error shows what the child logged last.
func (c *Cluster) await(ctx context.Context, child *process.Child, check func(context.Context) error) error {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-child.Exited:
			return c.failure(child.Name, fmt.Errorf("ended at its start: %w", exitError(child.Err())))
		case <-ctx.Done():
			return c.failure(child.Name, fmt.Errorf("is not healthy: %w (last: %w)", ctx.Err(), err))
		case <-tick.C:
		}
	}
}

func exitError(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

func (c *Cluster) failure(name string, err error) error {
	log := c.Log(name)
	return fmt.Errorf("%s %w\nThe end of %s:\n%s", name, err, log, indent(process.Tail(log, tailLines)))
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(text, "\n", "\n    ")
}
