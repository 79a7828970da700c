package debian

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/machine"
)

var absent = []machine.Tool{
	{Name: "no-such-runc", Package: "runc"},
	{Name: "no-such-ctr", Package: "containerd"},
	{Name: "no-such-shim", Package: "containerd"},
}

func TestEnsureSaysWhatIsMissingAndHowToGetIt(t *testing.T) {
	err := Ensure(t.Context(), append(absent, machine.Tool{Name: "go", Package: "golang"}), false, func(string) {})
	var missing *MissingError
	if !errors.As(err, &missing) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"no-such-runc, no-such-ctr, no-such-shim;", "--no-install is set", "apt-get install containerd runc\n"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}

func TestEnsureWithEverything(t *testing.T) {
	if err := Ensure(t.Context(), []machine.Tool{{Name: "go", Package: "golang"}}, false, func(string) {}); err != nil {
		t.Error(err)
	}
}

func TestHindrance(t *testing.T) {
	if got := hindrance(true, 1000); !strings.Contains(got, "root") {
		t.Errorf("got %q", got)
	}
}

func TestRelay(t *testing.T) {
	const output = `Reading package lists...
Get:1 http://packages.example/debian bookworm/main amd64 runc amd64 1.1.5 [2,710 kB]

Unpacking runc (1.1.5) ...
E: Unable to locate package x
more
`
	var shown []string
	last := relay(strings.NewReader(output), func(line string) { shown = append(shown, line) })
	if last != "E: Unable to locate package x" || len(shown) != 2 {
		t.Errorf("last %q, shown %q", last, shown)
	}
	if !slices.Equal(Packages(absent), []string{"containerd", "runc"}) {
		t.Errorf("packages %v", Packages(absent))
	}
}
