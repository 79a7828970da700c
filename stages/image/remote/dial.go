package remote

import (
	"net/netip"

	"github.com/tidegate-ci/tidegate/internal/netguard"
)

// RefusedError says that an address may not be reached.
type RefusedError = netguard.RefusedError

// Public tells whether an address belongs to the public internet and to no
// interface of this machine.
func Public(address netip.Addr) bool { return netguard.Public(address) }
