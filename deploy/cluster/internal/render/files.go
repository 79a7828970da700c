package render

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"text/template"

	"sigs.k8s.io/yaml"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/machine"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

// SandboxImage is the name of the image that holds a pod's namespaces open.
// Its registry does not exist: the image is imported, never pulled.
const SandboxImage = "tidegate.local/sandbox:1"

// Files maps paths below the state folder to configuration files.
func Files(s settings.Settings, m machine.Facts) (map[string][]byte, error) {
	files := map[string][]byte{"containerd.toml": containerdConfig(s, m)}
	for path, render := range map[string]func() ([]byte, error){
		"cni/10-bridge.conflist": func() ([]byte, error) { return json.MarshalIndent(networkConfig(s), "", "  ") },
		"kubelet.yaml":           func() ([]byte, error) { return yaml.Marshal(kubeletConfig(s, m)) },
		"kube-proxy.yaml":        func() ([]byte, error) { return yaml.Marshal(proxyConfig(s)) },
	} {
		data, err := render()
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", path, err)
		}
		files[path] = data
	}
	return files, nil
}

type object = map[string]any

// containerd's configuration in version 2, which 1.6 to 2.x read.
var containerdTemplate = template.Must(template.New("containerd").Funcs(template.FuncMap{
	// Values are paths and names that settings.Validate restricts to characters
	// for which Go's quoting is TOML's.
	"quote": func(s string) string { return fmt.Sprintf("%q", s) },
}).Parse(`version = 2
root = {{quote .Root}}
state = {{quote .State}}
# This plugin would leave /opt/containerd behind.
disabled_plugins = ["io.containerd.internal.v1.opt"]

[grpc]
  address = {{quote .Socket}}

[debug]
  level = "warn"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {{quote .Sandbox}}
  restrict_oom_score_adj = {{.RestrictOOMScore}}
  # Network namespaces are mounted below the state folder instead of /run/netns:
  # it is known whose they are.
  netns_mounts_under_state_dir = true
  max_concurrent_downloads = 10

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {{quote .CNIPlugins}}
    conf_dir = {{quote .CNIConfig}}

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = {{quote .Registries}}

  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = {{quote .Runtime}}
        Root = {{quote .RuntimeRoot}}
        SystemdCgroup = false
`))

func containerdConfig(s settings.Settings, m machine.Facts) []byte {
	var out strings.Builder
	err := containerdTemplate.Execute(&out, object{
		"Root":             s.Path("containerd", "root"),
		"State":            s.Path("containerd", "state"),
		"Socket":           s.ContainerdSocket(),
		"Sandbox":          SandboxImage,
		"RestrictOOMScore": !m.MayRaiseLimits,
		"CNIPlugins":       m.CNIPlugins,
		"CNIConfig":        s.Path("cni"),
		"Registries":       s.Path("registries"),
		"Runtime":          m.Runtime,
		"RuntimeRoot":      s.Path("runc"),
	})
	if err != nil {
		panic(err) // a template over fixed fields
	}
	return []byte(out.String())
}

func networkConfig(s settings.Settings) object {
	return object{
		"cniVersion": "1.0.0",
		"name":       s.Bridge,
		"plugins": []object{
			{
				"type":        "bridge",
				"bridge":      s.Bridge,
				"isGateway":   true,
				"ipMasq":      false, // one rule for the whole network instead of a chain a pod
				"hairpinMode": true,  // a pod may reach itself through its Service
				"ipam": object{
					"type":    "host-local",
					"dataDir": s.Path("ipam"),
					"ranges":  [][]object{{{"subnet": s.PodCIDR.String(), "gateway": s.NodeIP().String()}}},
					"routes":  []object{{"dst": "0.0.0.0/0"}},
				},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}
}

// CgroupRoot is the cgroup, below the root of every hierarchy, that all pods
// live in. Cgroups are the whole machine's, so its name is the state folder's.
func CgroupRoot(s settings.Settings) string {
	sum := sha256.Sum256([]byte(s.StateDir))
	return fmt.Sprintf("/tidegate-%x", sum[:4])
}

func kubeletConfig(s settings.Settings, m machine.Facts) object {
	config := object{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"address":                  s.NodeIP().String(),
		"port":                     s.KubeletPort,
		"healthzBindAddress":       "127.0.0.1",
		"healthzPort":              settings.KubeletHealthPort,
		"tlsCertFile":              s.Cert(kubeletServerID),
		"tlsPrivateKeyFile":        s.Key(kubeletServerID),
		"authentication":           object{"anonymous": object{"enabled": false}, "webhook": object{"enabled": true}, "x509": object{"clientCAFile": s.Cert(clusterCA)}},
		"authorization":            object{"mode": "Webhook"},
		"containerRuntimeEndpoint": "unix://" + s.ContainerdSocket(),
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               CgroupRoot(s),
		"clusterDomain":            "cluster.local",
		"resolvConf":               m.Resolv,
		"podLogsDir":               s.Path("log", "pods"),
		"volumePluginDir":          s.Path("kubelet", "volume-plugins"),
		"failSwapOn":               false,
		// The machine is a developer's own: it is not for the cluster to decide
		// that its disk is too full or to cap what all pods together use.
		"evictionHard":                  object{},
		"enforceNodeAllocatable":        []string{},
		"localStorageCapacityIsolation": false,
		"imageGCHighThresholdPercent":   100, // off: imported images can't be pulled again
		"serializeImagePulls":           false,
		"registryPullQPS":               0, // no limit
		"eventRecordQPS":                0, // no limit
		"kubeAPIQPS":                    100,
		"kubeAPIBurst":                  200,
		"enableControllerAttachDetach":  true,
		"rotateCertificates":            false,
		"shutdownGracePeriod":           "0s",
		"nodeStatusUpdateFrequency":     "10s",
		"containerLogMaxSize":           "10Mi",
		"containerLogMaxFiles":          2,
		"enableProfilingHandler":        false,
		"cpuManagerReconcilePeriod":     "10s",
	}
	if len(m.CgroupV1) > 0 {
		config["failCgroupV1"] = false
	}
	return config
}

func proxyConfig(s settings.Settings) object {
	return object{
		"apiVersion":         "kubeproxy.config.k8s.io/v1alpha1",
		"kind":               "KubeProxyConfiguration",
		"mode":               "iptables",
		"clientConnection":   object{"kubeconfig": s.ComponentKubeconfig(Proxy)},
		"clusterCIDR":        s.PodCIDR.String(),
		"hostnameOverride":   s.Node,
		"healthzBindAddress": fmt.Sprintf("127.0.0.1:%d", settings.ProxyHealthPort),
		"metricsBindAddress": fmt.Sprintf("127.0.0.1:%d", settings.ProxyMetricsPort),
		// 0 leaves the machine's own limits on tracked connections alone.
		"conntrack": object{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	}
}
