package render

import (
	"fmt"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

// Health says how to ask a process whether it is healthy: by GET of URL, or by a
// connection to Socket if that is set.
type Health struct {
	URL string
	// CA is the file with the authority that the server must be vouched for by;
	// Cert and Key, if set, are who asks.
	CA, Cert, Key string
	Socket        string
}

// HealthOf returns how to ask process.
func HealthOf(process string, s settings.Settings) Health {
	secure := func(port int, path string) Health {
		return Health{URL: fmt.Sprintf("https://127.0.0.1:%d%s", port, path), CA: s.Cert(clusterCA)}
	}
	plain := func(port int) Health {
		return Health{URL: fmt.Sprintf("http://127.0.0.1:%d/healthz", port)}
	}
	switch process {
	case Etcd:
		h := secure(s.EtcdPort, "/health")
		h.CA, h.Cert, h.Key = s.Cert(etcdCA), s.Cert(etcdClientID), s.Key(etcdClientID)
		return h
	case Containerd:
		return Health{Socket: s.ContainerdSocket()}
	case APIServer:
		h := secure(s.APIPort, "/readyz")
		h.Cert, h.Key = s.Cert(adminID), s.Key(adminID)
		return h
	case ControllerManager:
		return secure(settings.ControllerManagerPort, "/healthz")
	case Scheduler:
		return secure(settings.SchedulerPort, "/healthz")
	case Kubelet:
		return plain(settings.KubeletHealthPort)
	case Proxy:
		return plain(settings.ProxyHealthPort)
	}
	panic("no process " + process)
}
