package machine

import (
	"slices"
	"testing"
)

func TestCgroups(t *testing.T) {
	tests := []struct {
		name, mounts string
		v1           []string
		v2           string
	}{
		{"version 2", "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n", nil, "/sys/fs/cgroup"},
		{"version 1", "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n", []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory"}, ""},
		{"hybrid", "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n", []string{"/sys/fs/cgroup/cpu"}, "/sys/fs/cgroup/unified"},
		{"mounted elsewhere as well", "cgroup2 /var/lib/x/cgroup cgroup2 rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", nil, "/sys/fs/cgroup"},
		{"nothing", "garbage\n\n", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v1, v2 := cgroups(tt.mounts)
			if !slices.Equal(v1, tt.v1) || v2 != tt.v2 {
				t.Errorf("got %v and %q", v1, v2)
			}
		})
	}
}

func TestHasCapability(t *testing.T) {
	tests := []struct {
		name, status string
		want         bool
	}{
		{"all", "Name:\tx\nCapEff:\t000001ffffffffff\n", true},
		{"all but CAP_SYS_RESOURCE", "CapPrm:\t000001ffffffffff\nCapEff:\t000001fffeffffff\n", false},
		{"none", "CapEff:\t0000000000000000\n", false},
		{"no such line", "Name:\tx\n", false},
		{"no number", "CapEff:\tzz\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := hasCapability(tt.status, capSysResource); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestSearchPath(t *testing.T) {
	got := SearchPath("/home/me/bin:/usr/bin")
	if got != "/home/me/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin" {
		t.Error(got)
	}
	if SearchPath(got) != got {
		t.Error("not idempotent")
	}
}

func TestMissing(t *testing.T) {
	tools := []Tool{
		{Name: "go", Package: "golang"},
		{Name: "no-such-program", Package: "none"},
		{Name: "no-such-plugin", Package: "none", Dirs: []string{t.TempDir()}},
	}
	got := Missing(tools)
	if len(got) != 2 || got[0].Name != "no-such-program" || got[1].Name != "no-such-plugin" {
		t.Errorf("got %v", got)
	}
}
