package image

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/docker/go-units"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

// hostGateway is how docker calls the machine's own address. A command that has
// a network has the machine's, where it is the loopback address.
const hostGateway = "host-gateway"

var hostPattern = lazyregexp.New(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?$`)

// ParseHost reads "NAME:ADDRESS" or "NAME=ADDRESS" as docker's --add-host does.
func ParseHost(text string) (sandbox.Host, error) {
	name, address, ok := strings.Cut(text, "=")
	if !ok {
		name, address, ok = strings.Cut(text, ":")
	}
	if !ok || !hostPattern().MatchString(name) {
		return sandbox.Host{}, fmt.Errorf("host %q: want NAME:ADDRESS", text)
	}
	if address == hostGateway {
		return sandbox.Host{Name: name, Address: "127.0.0.1"}, nil
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(address, "["), "]"))
	if err != nil || ip.Zone() != "" {
		return sandbox.Host{}, fmt.Errorf("host %q: %q is no IP address", text, address)
	}
	return sandbox.Host{Name: name, Address: ip.String()}, nil
}

// ParseLimit reads "NAME=SOFT[:HARD]" as docker's --ulimit does.
func ParseLimit(text string) (sandbox.Limit, error) {
	limit, err := units.ParseUlimit(text)
	if err != nil {
		return sandbox.Limit{}, fmt.Errorf("limit %q: want NAME=SOFT[:HARD], such as nofile=1024:2048: %w", text, err)
	}
	return sandbox.Limit{Name: limit.Name, Soft: limit.Soft, Hard: limit.Hard}, nil
}

// ParseBytes reads a size such as 64m or 1g, in powers of 1024.
func ParseBytes(text string) (int64, error) {
	n, err := units.RAMInBytes(text)
	if err == nil && n <= 0 {
		err = errors.New("it must be above 0")
	}
	if err != nil {
		return 0, fmt.Errorf("size %q: %w", text, err)
	}
	return n, nil
}

// withSetup is the key of a command that runs in a setup of its own.
func withSetup(key v1.Hash, s sandbox.Setup) v1.Hash {
	if s.IsZero() {
		return key
	}
	k := newKeyer("setup")
	k.text("key", key.String())
	k.number("hosts", int64(len(s.Hosts)))
	for _, h := range s.Hosts {
		k.text("name", h.Name)
		k.text("address", h.Address)
	}
	k.number("shared-memory", s.SharedMemory)
	k.number("limits", int64(len(s.Limits)))
	for _, l := range s.Limits {
		k.text("limit", l.Name)
		k.number("soft", l.Soft)
		k.number("hard", l.Hard)
	}
	return k.sum()
}
