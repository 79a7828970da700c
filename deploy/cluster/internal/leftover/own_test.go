package leftover

import (
	"slices"
	"testing"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/process"
)

func TestOwn(t *testing.T) {
	const state = "/repo/.cluster"
	tests := []struct {
		name string
		p    process.Info
		own  bool
	}{
		{"a component", process.Info{Args: []string{"/bin/tidegate-cluster", "kubelet", "--config=/repo/.cluster/kubelet.yaml"}}, true},
		{"a component after the folder was removed", process.Info{Args: []string{"/bin/tc", "etcd"}, Cwd: state}, true},
		{"containerd", process.Info{Args: []string{"containerd", "--config", "/repo/.cluster/containerd.toml"}}, true},
		{"a shim", process.Info{Args: []string{"/usr/bin/containerd-shim-runc-v2", "-namespace", "k8s.io", "-address", "/repo/.cluster/containerd.sock"}}, true},
		{"a component of another cluster", process.Info{Args: []string{"/bin/tidegate-cluster", "kubelet", "--config=/other/.cluster/kubelet.yaml"}}, false},
		{"one in a folder with the same beginning", process.Info{Args: []string{"containerd", "--config", "/repo/.cluster2/containerd.toml"}, Cwd: "/repo/.cluster2"}, false},
		{"the machine's containerd", process.Info{Args: []string{"/usr/bin/containerd"}, Cwd: "/"}, false},
		{"an editor", process.Info{Args: []string{"vim", "/repo/.cluster/log/etcd.log"}}, false},
		{"a shell in the folder", process.Info{Args: []string{"bash"}, Cwd: state}, false},
		{"a command of ours", process.Info{Args: []string{"/bin/tidegate-cluster", "down", "--state=/repo/.cluster"}}, false},
		{"a kernel thread", process.Info{Cwd: "/"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := len(Own([]process.Info{tt.p}, state)) == 1; got != tt.own {
				t.Errorf("own %v, want %v", got, tt.own)
			}
		})
	}
}

func TestForeign(t *testing.T) {
	own := process.Info{PID: 10, Args: []string{"/bin/tidegate-cluster", "kubelet"}, NetNS: "net:[1]"}
	tests := []struct {
		name  string
		p     process.Info
		found bool
	}{
		{"our own", own, false},
		{"a kubelet", process.Info{PID: 11, Args: []string{"/usr/bin/kubelet", "--config=x"}, NetNS: "net:[1]"}, true},
		{"behind one main", process.Info{PID: 12, Args: []string{"./kube", "kube-proxy"}, NetNS: "net:[1]"}, true},
		{"on another network", process.Info{PID: 13, Args: []string{"/usr/bin/kubelet"}, NetNS: "net:[2]"}, false},
		{"something else", process.Info{PID: 14, Args: []string{"vim", "-R", "kubelet"}, NetNS: "net:[1]"}, false},
		{"a kernel thread", process.Info{PID: 15, NetNS: "net:[1]"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, found := Foreign([]process.Info{own, tt.p}, []process.Info{own}, "net:[1]"); found != tt.found {
				t.Errorf("found %v, want %v", found, tt.found)
			}
		})
	}
}

func TestMountPoints(t *testing.T) {
	const mountinfo = `22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /repo/.cluster2/x rw - tmpfs tmpfs rw
31 22 0:31 / /repo/.cluster/containerd/state/a\040b/rootfs rw - overlay overlay rw
32 31 0:32 / /repo/.cluster/containerd/state/a\040b/rootfs/tmp rw - tmpfs tmpfs rw
33 22 0:33 net:[4026532] /repo/.cluster/netns/cni-1//deleted rw - nsfs nsfs rw
34 22 0:34 / /srv/repo/.cluster rw - tmpfs tmpfs rw
broken line
`
	want := []string{
		"/repo/.cluster/netns/cni-1",
		"/repo/.cluster/containerd/state/a b/rootfs/tmp",
		"/repo/.cluster/containerd/state/a b/rootfs",
	}
	if got := mountPoints(mountinfo, "/repo/.cluster"); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func FuzzMountPoints(f *testing.F) {
	f.Add("31 22 0:31 / /s/a\\040b rw - overlay overlay rw\n")
	f.Add("31 22 0:31 / /s/\\9 rw\n\\")
	f.Fuzz(func(t *testing.T, mountinfo string) {
		for _, point := range mountPoints(mountinfo, "/s") {
			if point != "/s" && point[:3] != "/s/" {
				t.Errorf("%q is not below", point)
			}
		}
	})
}
