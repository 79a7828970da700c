package render

import (
	"fmt"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

// Names of the processes that make up the cluster; those of Kubernetes are also
// the first argument that this binary runs them by.
const (
	Etcd              = "etcd"
	Containerd        = "containerd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Kubelet           = "kubelet"
	Proxy             = "kube-proxy"
)

// Processes lists them in the order in which they start; they stop in reverse.
func Processes() []string {
	return []string{Etcd, Containerd, APIServer, ControllerManager, Scheduler, Kubelet, Proxy}
}

// clientQPS is what controllers and the scheduler may ask of the API server per
// second. The default of 20 to 50 is made for many controllers sharing one API
// server; here it would only make scale tests measure the throttle.
const clientQPS = 1000

// Command is the command line of a process: self is the path of this binary.
func Command(process, self string, s settings.Settings) []string {
	switch process {
	case Etcd:
		return etcdCommand(self, s)
	case Containerd:
		return []string{"containerd", "--config", s.Path("containerd.toml")}
	case APIServer:
		return apiServerCommand(self, s)
	case ControllerManager:
		return append(controllerCommand(ControllerManager, self, s, settings.ControllerManagerPort),
			"--use-service-account-credentials=true",
			"--service-account-private-key-file="+s.Key(ServiceAccountKey),
			"--root-ca-file="+s.Cert(clusterCA),
			"--cluster-signing-cert-file="+s.Cert(clusterCA),
			"--cluster-signing-key-file="+s.Key(clusterCA),
			"--cluster-cidr="+s.PodCIDR.String(),
			"--flex-volume-plugin-dir="+s.Path("kubelet", "volume-plugins"),
		)
	case Scheduler:
		return controllerCommand(Scheduler, self, s, settings.SchedulerPort)
	case Kubelet:
		return []string{
			self, Kubelet,
			"--config=" + s.Path("kubelet.yaml"),
			"--kubeconfig=" + s.ComponentKubeconfig(Kubelet),
			"--root-dir=" + s.Path("kubelet"),
			"--cert-dir=" + s.Path("kubelet", "pki"),
			"--hostname-override=" + s.Node,
			"--node-ip=" + s.NodeIP().String(),
		}
	case Proxy:
		return []string{self, Proxy, "--config=" + s.Path("kube-proxy.yaml")}
	}
	panic("no process " + process)
}

func etcdCommand(self string, s settings.Settings) []string {
	client := fmt.Sprintf("https://127.0.0.1:%d", s.EtcdPort)
	peer := fmt.Sprintf("https://127.0.0.1:%d", s.EtcdPort+1)
	return []string{
		self, Etcd,
		"--name=" + s.Node,
		"--data-dir=" + s.Path("etcd"),
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + s.Node + "=" + peer,
		"--client-cert-auth=true",
		"--trusted-ca-file=" + s.Cert(etcdCA),
		"--cert-file=" + s.Cert(etcdServerID),
		"--key-file=" + s.Key(etcdServerID),
		"--peer-client-cert-auth=true",
		"--peer-trusted-ca-file=" + s.Cert(etcdCA),
		"--peer-cert-file=" + s.Cert(etcdServerID),
		"--peer-key-file=" + s.Key(etcdServerID),
		// Survives the death of every process, not of the machine: a
		// development cluster is made anew after that.
		"--unsafe-no-fsync=true",
		"--log-level=warn",
	}
}

func apiServerCommand(self string, s settings.Settings) []string {
	return []string{
		self, APIServer,
		fmt.Sprintf("--etcd-servers=https://127.0.0.1:%d", s.EtcdPort),
		"--etcd-cafile=" + s.Cert(etcdCA),
		"--etcd-certfile=" + s.Cert(etcdClientID),
		"--etcd-keyfile=" + s.Key(etcdClientID),
		// Programs on the machine use loopback, pods use the node's address.
		"--bind-address=0.0.0.0",
		"--advertise-address=" + s.NodeIP().String(),
		fmt.Sprintf("--secure-port=%d", s.APIPort),
		"--cert-dir=" + s.Path("apiserver"),
		"--tls-cert-file=" + s.Cert(apiServerID),
		"--tls-private-key-file=" + s.Key(apiServerID),
		"--client-ca-file=" + s.Cert(clusterCA),
		"--anonymous-auth=false",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--kubelet-certificate-authority=" + s.Cert(clusterCA),
		"--kubelet-client-certificate=" + s.Cert(kubeletClientID),
		"--kubelet-client-key=" + s.Key(kubeletClientID),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + s.Path("pki", ServiceAccountKey+".pub"),
		"--service-account-signing-key-file=" + s.Key(ServiceAccountKey),
		"--service-cluster-ip-range=" + s.ServiceCIDR.String(),
		"--allow-privileged=true",
		"--profiling=false",
	}
}

// controllerCommand is what the controller manager and the scheduler share.
func controllerCommand(name, self string, s settings.Settings, port int) []string {
	kubeconfig := s.ComponentKubeconfig(name)
	return []string{
		self, name,
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", port),
		"--tls-cert-file=" + s.Cert(loopbackID),
		"--tls-private-key-file=" + s.Key(loopbackID),
		// There is only one of each, and waiting for a dead one's lease would
		// cost 15 s of every start.
		"--leader-elect=false",
		"--profiling=false",
		fmt.Sprintf("--kube-api-qps=%d", clientQPS),
		fmt.Sprintf("--kube-api-burst=%d", 2*clientQPS),
	}
}
