package netguard

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAddresses(t *testing.T) {
	for text, want := range map[string]struct{ public, inside bool }{
		"8.8.8.8": {true, true}, "2606:4700:4700::1111": {true, true},
		"10.1.2.3": {false, true}, "127.0.0.1": {false, true}, "::1": {false, true}, "fd00::1": {false, true}, "::ffff:10.0.0.1": {false, true}, "100.64.0.1": {false, true},
		"169.254.169.254": {false, false}, "fe80::1%eth0": {false, false}, "::ffff:169.254.169.254": {false, false}, "0.0.0.0": {false, false}, "224.0.0.1": {false, false}, "::": {false, false},
	} {
		address := netip.MustParseAddr(text)
		require.Equal(t, want.public, Public(address), "%s public", text)
		require.Equal(t, want.inside, Inside(address), "%s inside", text)
	}
}

func TestControlJudgesTheAddressThatIsDialled(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	dialer := net.Dialer{Control: Control(Public)}
	_, err = dialer.DialContext(t.Context(), "tcp", listener.Addr().String())
	var refused *RefusedError
	require.ErrorAs(t, err, &refused)
	dialer.Control = Control(Inside)
	connection, err := dialer.DialContext(t.Context(), "tcp", listener.Addr().String())
	require.NoError(t, err)
	require.NoError(t, connection.Close())
}
