// Package hostnet gives pods their network on the host's side: the bridge they
// hang on, packet filter rules, kernel settings; and takes it away again.
package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

// Create makes the bridge with the node's address, lets packets through and
// sets what the kernel needs. What is there already stays. The warnings returned
// are for the user; the cluster works without what they mention, up to a limit.
func Create(ctx context.Context, s settings.Settings) (warnings []string, err error) {
	if err := createBridge(s.Bridge, netip.PrefixFrom(s.NodeIP(), s.PodCIDR.Bits())); err != nil {
		return nil, fmt.Errorf("bridge %s: %w", s.Bridge, err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return nil, fmt.Errorf("let the kernel forward packets: %w", err)
	}
	if err := filterBridged(ctx); err != nil {
		warnings = append(warnings, fmt.Sprintf("a pod can't reach a Service that leads to a pod: %v; load the kernel module br_netfilter", err))
	}
	return warnings, addRules(ctx, s)
}

func createBridge(name string, address netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if isNotFound(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("create: %w", err)
		}
		link, err = netlink.LinkByName(name)
	}
	if err != nil {
		return err
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("there is a network device of that name that is a %s; choose another by --bridge", link.Type())
	}
	network := &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), 32)}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: network}); err != nil {
		return fmt.Errorf("set address %s: %w", address, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// Conflict returns the name of a device other than bridge whose network
// overlaps one of the cluster's.
func Conflict(s settings.Settings) (device string, network netip.Prefix, err error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return "", netip.Prefix{}, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		bits, _ := r.Dst.Mask.Size()
		if !ok || bits == 0 {
			continue
		}
		network := netip.PrefixFrom(addr, bits)
		if !network.Overlaps(s.PodCIDR) && !network.Overlaps(s.ServiceCIDR) {
			continue
		}
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil || link.Attrs().Name == s.Bridge {
			continue
		}
		return link.Attrs().Name, network, nil
	}
	return "", netip.Prefix{}, nil
}

// RemoveBridge removes the bridge; removed is false if there was none.
func RemoveBridge(name string) (removed bool, err error) {
	link, err := netlink.LinkByName(name)
	if isNotFound(err) {
		return false, nil
	}
	if err == nil && link.Type() != "bridge" {
		return false, nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return false, fmt.Errorf("remove bridge %s: %w", name, err)
	}
	return true, nil
}

func isNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}

// filterBridged makes the packet filter see packets between two ports of a
// bridge. Without it a reply to a Service's address goes straight from pod to
// pod and comes from the wrong address.
func filterBridged(ctx context.Context) error {
	const setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if _, err := os.Stat(setting); err != nil {
		if out, err := exec.CommandContext(ctx, "modprobe", "br_netfilter").CombinedOutput(); err != nil {
			return fmt.Errorf("modprobe br_netfilter: %w %s", err, strings.TrimSpace(string(out)))
		}
	}
	return os.WriteFile(setting, []byte("1"), 0o644)
}
