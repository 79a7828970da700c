// Package settings holds what a cluster is made with: its state folder, ports
// and networks. It is recorded in the state folder, so that every later
// command works on the cluster that was brought up.
package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
)

// Settings decide everything about a cluster. The zero value is not useful;
// start from Default.
type Settings struct {
	// StateDir is the absolute path of the folder that holds the cluster.
	StateDir string `json:"stateDir"`
	// Node is the name of the only node.
	Node string `json:"node"`
	// Bridge is the network device that pods hang on, and the name of their CNI
	// network.
	Bridge string `json:"bridge"`
	// PodCIDR is the IPv4 network of the pods. Its first address belongs to
	// the bridge and is the node's own address.
	PodCIDR netip.Prefix `json:"podCIDR"`
	// ServiceCIDR is the IPv4 network of ClusterIPs.
	ServiceCIDR netip.Prefix `json:"serviceCIDR"`
	// APIPort is the API server's port.
	APIPort int `json:"apiPort"`
	// EtcdPort is etcd's client port on loopback; the next one is its peer port.
	EtcdPort int `json:"etcdPort"`
	// KubeletPort is the kubelet's secured port on the node's address.
	KubeletPort int `json:"kubeletPort"`
}

// Ports on loopback that Kubernetes components serve their health on.
const (
	ControllerManagerPort = 10257
	SchedulerPort         = 10259
	KubeletHealthPort     = 10248
	ProxyHealthPort       = 10256
	ProxyMetricsPort      = 10249
)

// Default returns the settings of a cluster in stateDir when nobody asks for
// anything else.
func Default(stateDir string) Settings {
	return Settings{
		StateDir:    stateDir,
		Node:        "tidegate",
		Bridge:      "tidegate0",
		PodCIDR:     netip.MustParsePrefix("10.244.0.0/16"),
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
		APIPort:     6443,
		EtcdPort:    2379,
		KubeletPort: 10250,
	}
}

// maxStateDir keeps the longest socket below the state folder
// (kubelet/pod-resources/kubelet.sock) within the 107 bytes of a UNIX address.
const maxStateDir = 70

var (
	bridgePattern = regexp.MustCompile(`^[a-z][a-z0-9]{0,14}$`)
	nodePattern   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	// statePattern keeps paths free of what configuration files and
	// /proc/mounts would need to escape.
	statePattern = regexp.MustCompile(`^/[A-Za-z0-9._/@+=-]+$`)
)

// Validate says what is wrong with s and which flag sets it.
func (s Settings) Validate() error {
	if !statePattern.MatchString(s.StateDir) || filepath.Clean(s.StateDir) != s.StateDir {
		return fmt.Errorf("state folder %q: needs an absolute path of letters, digits and ._/@+=- only; set another by --state", s.StateDir)
	}
	if len(s.StateDir) > maxStateDir {
		return fmt.Errorf("state folder %q: %d characters are too long for UNIX sockets below it, at most %d; set a shorter one by --state", s.StateDir, len(s.StateDir), maxStateDir)
	}
	if !bridgePattern.MatchString(s.Bridge) {
		return fmt.Errorf("--bridge %q: needs 1 to 15 of a-z and 0-9, a letter first", s.Bridge)
	}
	if !nodePattern.MatchString(s.Node) {
		return fmt.Errorf("--node %q: needs 1 to 63 of a-z, 0-9 and -, no - at an end", s.Node)
	}
	for _, network := range []struct {
		flag   string
		prefix netip.Prefix
	}{{"--pod-cidr", s.PodCIDR}, {"--service-cidr", s.ServiceCIDR}} {
		if p := network.prefix; !p.IsValid() || !p.Addr().Is4() || p.Masked() != p || p.Bits() < 12 || p.Bits() > 24 {
			return fmt.Errorf("%s %s: needs an IPv4 network of /12 to /24 such as 10.244.0.0/16", network.flag, p)
		}
	}
	if s.PodCIDR.Overlaps(s.ServiceCIDR) {
		return fmt.Errorf("--pod-cidr %s and --service-cidr %s overlap", s.PodCIDR, s.ServiceCIDR)
	}
	return validatePorts(s.Ports())
}

func validatePorts(ports []Port) error {
	owner := map[int]string{}
	for _, p := range ports {
		if p.Number < 1 || p.Number > 65535 {
			return fmt.Errorf("port %d of %s: needs 1 to 65535", p.Number, p.Of)
		}
		if other, taken := owner[p.Number]; taken {
			return fmt.Errorf("port %d is asked for by both %s and %s", p.Number, other, p.Of)
		}
		owner[p.Number] = p.Of
	}
	return nil
}

// Port is a TCP port that a component listens on.
type Port struct {
	Number int
	// Of names what listens there, and Flag the flag that moves it ("" if none).
	Of, Flag string
}

// Ports lists every port that the cluster listens on.
func (s Settings) Ports() []Port {
	return []Port{
		{s.APIPort, "kube-apiserver", "--api-port"},
		{s.EtcdPort, "etcd", "--etcd-port"},
		{s.EtcdPort + 1, "etcd's peer port", "--etcd-port"},
		{s.KubeletPort, "kubelet", "--kubelet-port"},
		{KubeletHealthPort, "kubelet's health", ""},
		{ControllerManagerPort, "kube-controller-manager", ""},
		{SchedulerPort, "kube-scheduler", ""},
		{ProxyHealthPort, "kube-proxy's health", ""},
		{ProxyMetricsPort, "kube-proxy's metrics", ""},
	}
}

// NodeIP is the node's address: the first of the pod network.
func (s Settings) NodeIP() netip.Addr { return s.PodCIDR.Addr().Next() }

// APIServiceIP is the ClusterIP of the Service kubernetes.default.
func (s Settings) APIServiceIP() netip.Addr { return s.ServiceCIDR.Addr().Next() }

// APIServer is the URL that clients on this machine use.
func (s Settings) APIServer() string { return fmt.Sprintf("https://127.0.0.1:%d", s.APIPort) }

// Path joins elements to the state folder.
func (s Settings) Path(elements ...string) string {
	return filepath.Join(append([]string{s.StateDir}, elements...)...)
}

// Key returns the path of an identity's private key, Cert that of its certificate.
func (s Settings) Key(identity string) string { return s.Path("pki", identity+".key") }

// Cert returns the path of an identity's certificate.
func (s Settings) Cert(identity string) string { return s.Path("pki", identity+".crt") }

// Kubeconfig is the administrator's kubeconfig.
func (s Settings) Kubeconfig() string { return s.Path("kubeconfig") }

// ComponentKubeconfig is the kubeconfig that a component authenticates with.
func (s Settings) ComponentKubeconfig(component string) string {
	return s.Path("kubeconfigs", component)
}

// ContainerdSocket is the socket of the cluster's own containerd.
func (s Settings) ContainerdSocket() string { return s.Path("containerd.sock") }

// Log is the file that a process writes its output to.
func (s Settings) Log(process string) string { return s.Path("log", process+".log") }

// RecordFile is the file in a state folder that marks it as one.
const RecordFile = "cluster.json"

// Save records s in its state folder.
func (s Settings) Save() error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("record settings: %w", err)
	}
	if err := os.WriteFile(s.Path(RecordFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("record settings: %w", err)
	}
	return nil
}

// Load returns the settings recorded in stateDir; found is false, and the
// settings are the default ones, if there are none.
func Load(stateDir string) (s Settings, found bool, err error) {
	s = Default(stateDir)
	path := s.Path(RecordFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return s, false, fmt.Errorf("read settings of the cluster in %s: %w", stateDir, err)
	}
	// The folder may have been moved since; where it is now is what counts.
	s.StateDir = stateDir
	if err := s.Validate(); err != nil {
		return s, false, fmt.Errorf("settings recorded in %s: %w", path, err)
	}
	return s, true, nil
}
