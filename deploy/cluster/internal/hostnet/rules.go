package hostnet

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

// mark is the comment by which our own rules are found again.
func mark(bridge string) string { return "tidegate-cluster:" + bridge }

type rule struct {
	table, chain string
	spec         []string
}

// rules let pods talk even where a firewall or Docker drops forwarded packets,
// and give them the host's address towards the outside.
func rules(s settings.Settings) []rule {
	comment := []string{"-m", "comment", "--comment", mark(s.Bridge)}
	pods := s.PodCIDR.String()
	return []rule{
		{"filter", "FORWARD", append([]string{"-i", s.Bridge, "-j", "ACCEPT"}, comment...)},
		{"filter", "FORWARD", append([]string{"-o", s.Bridge, "-j", "ACCEPT"}, comment...)},
		{"filter", "INPUT", append([]string{"-i", s.Bridge, "-j", "ACCEPT"}, comment...)},
		{"nat", "POSTROUTING", append([]string{"-s", pods, "!", "-d", pods, "!", "-o", s.Bridge, "-j", "MASQUERADE"}, comment...)},
	}
}

func addRules(ctx context.Context, s settings.Settings) error {
	for _, r := range rules(s) {
		if _, err := iptables(ctx, "", "iptables", append([]string{"-w", "-t", r.table, "-C", r.chain}, r.spec...)...); err == nil {
			continue
		}
		if _, err := iptables(ctx, "", "iptables", append([]string{"-w", "-t", r.table, "-I", r.chain}, r.spec...)...); err != nil {
			return err
		}
	}
	return nil
}

// RemoveRules removes the rules and chains of the cluster with this bridge, and
// those of kube-proxy and the kubelet, which bear no owner's name: only call it
// when no other ones run on this network. It returns how many rules and chains it
// removed.
func RemoveRules(ctx context.Context, bridge string) (removed int, err error) {
	for _, family := range []string{"iptables", "ip6tables"} {
		if _, err := exec.LookPath(family + "-save"); err != nil {
			continue
		}
		saved, err := iptables(ctx, "", family+"-save")
		if err != nil {
			if family == "ip6tables" {
				continue // a kernel without IPv6
			}
			return removed, err
		}
		script, n := cleanup(saved, bridge)
		if n == 0 {
			continue
		}
		if _, err := iptables(ctx, script, family+"-restore", "--wait", "--noflush"); err != nil {
			return removed, err
		}
		removed += n
	}
	return removed, nil
}

func iptables(ctx context.Context, stdin, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return string(out), nil
}

// cleanup turns the text of iptables-save into a script for iptables-restore
// --noflush that removes what RemoveRules promises, and the number of things
// removed.
func cleanup(saved, bridge string) (script string, removed int) {
	var out strings.Builder
	for table := range strings.SplitSeq(saved, "COMMIT\n") {
		lines, n := cleanTable(strings.Split(table, "\n"), bridge)
		if n > 0 {
			out.WriteString(strings.Join(lines, "\n") + "\nCOMMIT\n")
			removed += n
		}
	}
	return out.String(), removed
}

func cleanTable(lines []string, bridge string) (script []string, removed int) {
	var chains []string
	for _, line := range lines {
		if name, ok := strings.CutPrefix(line, ":"); ok && strings.HasPrefix(name, "KUBE-") {
			chains = append(chains, strings.Fields(name)[0])
		}
		// Host ports: the plugin notes the network's name in the rule that leads
		// to a pod's own chain.
		if strings.HasPrefix(line, "-A CNI-") && strings.Contains(line, `name: \"`+bridge+`\"`) {
			if t := target(line); strings.HasPrefix(t, "CNI-DN-") && !slices.Contains(chains, t) {
				chains = append(chains, t)
			}
		}
	}
	for _, line := range lines {
		switch {
		case strings.HasPrefix(line, "*"):
			script = append(script, line)
		case strings.HasPrefix(line, "-A "):
			fields := strings.Fields(line)
			if len(fields) < 2 {
				continue
			}
			if chain := fields[1]; !slices.Contains(chains, chain) && (slices.Contains(chains, target(line)) || isMarked(line, bridge)) {
				script = append(script, "-D"+strings.TrimPrefix(line, "-A"))
				removed++
			}
		}
	}
	for _, command := range []string{"-F ", "-X "} {
		for _, chain := range chains {
			script = append(script, command+chain)
		}
	}
	return script, removed + len(chains)
}

// target is the chain that a rule jumps or goes to.
func target(rule string) string {
	fields := strings.Fields(rule)
	for i := len(fields) - 2; i >= 0; i-- {
		if fields[i] == "-j" || fields[i] == "-g" {
			return fields[i+1]
		}
	}
	return ""
}

func isMarked(rule, bridge string) bool {
	return slices.ContainsFunc(strings.Fields(rule), func(field string) bool {
		return strings.Trim(field, `"`) == mark(bridge)
	})
}
