package netguard

import (
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Client makes an HTTP client that reaches only addresses that allow likes,
// takes no longer than timeout, and takes a redirect for an answer.
func Client(allow func(netip.Addr) bool, timeout time.Duration) *http.Client {
	dialer := &net.Dialer{Timeout: timeout, Control: Control(allow)}
	return &http.Client{
		Timeout: timeout,
		// No proxy: it would be the one that is dialled, and the rule would judge it.
		Transport:     &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true, TLSHandshakeTimeout: timeout, ResponseHeaderTimeout: timeout},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
