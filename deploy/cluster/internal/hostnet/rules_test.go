package hostnet

import (
	"os"
	"strings"
	"testing"
)

func TestCleanupRemovesOwnAndKubernetesRulesOnly(t *testing.T) {
	saved, err := os.ReadFile("testdata/saved.txt")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/cleanup.golden")
	if err != nil {
		t.Fatal(err)
	}
	got, removed := cleanup(string(saved), "tidegate0")
	if got != string(want) {
		t.Errorf("got:\n%s", got)
	}
	if removed != 12 {
		t.Errorf("removed %d", removed)
	}
}

func TestCleanupOfACleanMachine(t *testing.T) {
	for _, saved := range []string{"", "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j DOCKER\nCOMMIT\n"} {
		if script, removed := cleanup(saved, "tidegate0"); script != "" || removed != 0 {
			t.Errorf("%q gives %q, %d", saved, script, removed)
		}
	}
}

func FuzzCleanup(f *testing.F) {
	f.Add("*nat\n:KUBE-X - [0:0]\n-A KUBE-X -j ACCEPT\nCOMMIT\n")
	f.Add(":KUBE-\n-A \n-A x -j")
	f.Fuzz(func(t *testing.T, saved string) {
		script, _ := cleanup(saved, "tidegate0")
		for line := range strings.Lines(script) {
			if strings.HasPrefix(line, "-A") {
				t.Errorf("adds a rule: %q", line)
			}
		}
	})
}
