package settings

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Settings)
		want   string // part of the error; "" for none
	}{
		{"default", func(*Settings) {}, ""},
		{"relative folder", func(s *Settings) { s.StateDir = ".cluster" }, "--state"},
		{"folder with a quote", func(s *Settings) { s.StateDir = `/a"b` }, "--state"},
		{"folder not clean", func(s *Settings) { s.StateDir = "/a/../b" }, "--state"},
		{"long folder", func(s *Settings) { s.StateDir = "/" + strings.Repeat("a", maxStateDir) }, "too long"},
		{"bridge too long", func(s *Settings) { s.Bridge = "abcdefghijklmnop" }, "--bridge"},
		{"bridge with a space", func(s *Settings) { s.Bridge = "a b" }, "--bridge"},
		{"node", func(s *Settings) { s.Node = "Node_1" }, "--node"},
		{"IPv6 pods", func(s *Settings) { s.PodCIDR = netip.MustParsePrefix("fd00::/64") }, "--pod-cidr"},
		{"address instead of network", func(s *Settings) { s.PodCIDR = netip.MustParsePrefix("10.244.0.1/16") }, "--pod-cidr"},
		{"small network", func(s *Settings) { s.ServiceCIDR = netip.MustParsePrefix("10.96.0.0/30") }, "--service-cidr"},
		{"no network", func(s *Settings) { s.ServiceCIDR = netip.Prefix{} }, "--service-cidr"},
		{"overlap", func(s *Settings) { s.ServiceCIDR = netip.MustParsePrefix("10.244.1.0/24") }, "overlap"},
		{"port 0", func(s *Settings) { s.APIPort = 0 }, "1 to 65535"},
		{"last port for etcd", func(s *Settings) { s.EtcdPort = 65535 }, "etcd's peer port"},
		{"same port twice", func(s *Settings) { s.APIPort = s.EtcdPort + 1 }, "both"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := Default("/repo/.cluster")
			tt.change(&s)
			err := s.Validate()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestSaveAndLoad(t *testing.T) {
	dir := t.TempDir()
	if _, found, err := Load(dir); found || err != nil {
		t.Fatalf("found %v, err %v in an empty folder", found, err)
	}
	s := Default(dir)
	s.APIPort, s.Bridge = 7443, "other0"
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	if got, found, err := Load(dir); err != nil || !found || got != s {
		t.Errorf("got %+v, %v, %v", got, found, err)
	}
	for _, damaged := range []string{"{", `{"apiPort": 99999}`, `{"podCIDR": "x"}`} {
		if err := os.WriteFile(filepath.Join(dir, RecordFile), []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Load(dir); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%q: error %v", damaged, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	s := Default("/repo/.cluster")
	if s.NodeIP().String() != "10.244.0.1" || s.APIServiceIP().String() != "10.96.0.1" {
		t.Errorf("node %s, service %s", s.NodeIP(), s.APIServiceIP())
	}
}
