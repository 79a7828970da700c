// Package netguard keeps connections that others chose the address of away
// from this machine and private networks.
package netguard

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// RefusedError says that an address may not be reached.
type RefusedError struct{ Address string }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the address %s is of this machine or a private network, which may not be reached from here", e.Address)
}

// Special networks that routers keep to themselves, or that stand for other
// addresses (IANA's special-purpose registries).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"),
}

// Public tells whether an address belongs to the public internet and to no
// interface of this machine.
func Public(address netip.Addr) bool {
	address = address.Unmap().WithZone("")
	if !address.IsGlobalUnicast() || address.IsPrivate() {
		return false
	}
	for _, network := range special {
		if network.Contains(address) {
			return false
		}
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false // not known to be another machine's
	}
	for _, a := range own {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Unmap() == address {
			return false
		}
	}
	return true
}

// Control is a net.Dialer's Control. It sees the address a name was resolved to,
// right before the connection is made: what the name means later is no matter.
func Control(allow func(netip.Addr) bool) func(network, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil || !allow(at.Addr()) {
			return &RefusedError{Address: address}
		}
		return nil
	}
}

// Inside allows private networks and this machine too, but never link-local
// addresses, at which clouds hand out the credentials of a machine.
func Inside(address netip.Addr) bool {
	address = address.Unmap().WithZone("")
	return address.IsValid() && !address.IsUnspecified() && !address.IsLinkLocalUnicast() && !address.IsMulticast()
}
