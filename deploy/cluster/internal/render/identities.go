// Package render turns settings and facts about the machine into what the
// components are started with: identities, configuration files, command lines.
// It is pure.
package render

import (
	"net/netip"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/pki"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

// The authorities. etcd has its own: it lets every client in that its
// authority vouches for, and only the API server may be one.
const (
	clusterCA = "ca"
	etcdCA    = "etcd-ca"
)

// Authorities lists the certificate authorities of a cluster.
func Authorities() []string { return []string{clusterCA, etcdCA} }

// ServiceAccountKey names the key pair that signs service account tokens.
const ServiceAccountKey = "service-account"

// Names of identities' files that are used in more than one place.
const (
	adminID         = "admin"
	apiServerID     = "apiserver"
	kubeletClientID = "apiserver-kubelet-client"
	etcdServerID    = "etcd"
	etcdClientID    = "apiserver-etcd-client"
	kubeletServerID = "kubelet-server"
	loopbackID      = "loopback"
)

// KubeletAPIUser is whom the API server is to the kubelet; it needs the
// cluster role system:kubelet-api-admin.
const KubeletAPIUser = "kube-apiserver-kubelet-client"

var loopback = netip.MustParseAddr("127.0.0.1")

// Identities lists every certificate that the cluster needs. Users and groups
// of clients are the ones that Kubernetes' own roles are bound to.
func Identities(s settings.Settings) []pki.Identity {
	identities := []pki.Identity{
		{File: etcdServerID, Authority: etcdCA, User: "etcd", DNS: []string{"localhost"}, IPs: []netip.Addr{loopback}, Client: true},
		{File: etcdClientID, Authority: etcdCA, User: "kube-apiserver", Client: true},
		{
			File: apiServerID, Authority: clusterCA, User: "kube-apiserver",
			DNS: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
			IPs: []netip.Addr{loopback, s.NodeIP(), s.APIServiceIP()},
		},
		{File: kubeletClientID, Authority: clusterCA, User: KubeletAPIUser, Client: true},
		{File: kubeletServerID, Authority: clusterCA, User: "system:node:" + s.Node, Group: "system:nodes", DNS: []string{s.Node}, IPs: []netip.Addr{s.NodeIP()}},
		{File: loopbackID, Authority: clusterCA, User: "loopback", DNS: []string{"localhost"}, IPs: []netip.Addr{loopback}},
	}
	for _, client := range clients(s) {
		identities = append(identities, client)
	}
	return identities
}

// Kubeconfigs maps the path of every kubeconfig to its identity.
func Kubeconfigs(s settings.Settings) map[string]pki.Identity {
	configs := map[string]pki.Identity{}
	for _, client := range clients(s) {
		path := s.ComponentKubeconfig(client.File)
		if client.File == adminID {
			path = s.Kubeconfig()
		}
		configs[path] = client
	}
	return configs
}

func clients(s settings.Settings) []pki.Identity {
	return []pki.Identity{
		{File: adminID, Authority: clusterCA, User: "tidegate-admin", Group: "system:masters", Client: true},
		{File: ControllerManager, Authority: clusterCA, User: "system:kube-controller-manager", Client: true},
		{File: Scheduler, Authority: clusterCA, User: "system:kube-scheduler", Client: true},
		{File: Proxy, Authority: clusterCA, User: "system:kube-proxy", Client: true},
		{File: Kubelet, Authority: clusterCA, User: "system:node:" + s.Node, Group: "system:nodes", Client: true},
	}
}
