package render

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/machine"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var (
	ordinary   = machine.Facts{CgroupV2: "/sys/fs/cgroup", MayRaiseLimits: true, Runtime: "/usr/sbin/runc", CNIPlugins: "/usr/lib/cni", Resolv: "/run/systemd/resolve/resolv.conf"}
	restricted = machine.Facts{CgroupV1: []string{"/sys/fs/cgroup/cpu"}, CgroupV2: "/sys/fs/cgroup/unified", Runtime: "/usr/sbin/runc", CNIPlugins: "/opt/cni/bin", Resolv: "/etc/resolv.conf"}
)

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; see it with -update and git diff. Got:\n%s", path, got)
	}
}

func TestFiles(t *testing.T) {
	for name, facts := range map[string]machine.Facts{"ordinary": ordinary, "restricted": restricted} {
		files, err := Files(settings.Default("/repo/.cluster"), facts)
		if err != nil {
			t.Fatal(err)
		}
		for path, data := range files {
			t.Run(name+"/"+path, func(t *testing.T) {
				golden(t, name+"-"+filepath.Base(path), string(data))
			})
		}
	}
}

func TestCommands(t *testing.T) {
	s := settings.Default("/repo/.cluster")
	for _, process := range Processes() {
		t.Run(process, func(t *testing.T) {
			args := Command(process, "/bin/tidegate-cluster", s)
			golden(t, process, strings.Join(args, "\n")+"\n")
			// This is how leftovers are told from other clusters' processes.
			if !slices.ContainsFunc(args[1:], func(arg string) bool {
				_, value, _ := strings.Cut(arg, "=")
				return strings.HasPrefix(arg, "/repo/.cluster/") || strings.HasPrefix(value, "/repo/.cluster/")
			}) {
				t.Error("no argument names the state folder")
			}
		})
	}
}

func TestIdentities(t *testing.T) {
	s := settings.Default("/repo/.cluster")
	files := map[string]bool{}
	for _, id := range Identities(s) {
		if files[id.File] {
			t.Errorf("two identities in %s", id.File)
		}
		files[id.File] = true
		if !slices.Contains(Authorities(), id.Authority) {
			t.Errorf("%s: no authority %s", id.File, id.Authority)
		}
		// Only etcd and its one client may be vouched for by etcd's authority.
		if id.Authority == etcdCA && id.File != etcdServerID && id.File != etcdClientID {
			t.Errorf("%s could read etcd", id.File)
		}
		if id.Group == "system:masters" && id.File != adminID {
			t.Errorf("%s is an administrator", id.File)
		}
	}
	for path, id := range Kubeconfigs(s) {
		if !id.Client || id.Authority != clusterCA {
			t.Errorf("%s: %s is no client of the API server", path, id.File)
		}
	}
}

func TestCgroupRootIsTheFoldersOwn(t *testing.T) {
	if CgroupRoot(settings.Default("/a")) == CgroupRoot(settings.Default("/b")) {
		t.Error("two clusters share a cgroup: cleaning one would kill the other's pods")
	}
}
