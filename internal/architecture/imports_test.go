// Package architecture holds the tests that keep the layout honest.
package architecture

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tidegate-ci/tidegate/"

// allowed says, for each top-level part, which parts of this module it may
// import. Data flows one way: triggers → pipeline → stages → rollout. A part may
// always import itself; the longest prefix that matches a package decides.
var allowed = map[string][]string{
	"pipeline": {"internal/mask", "internal/lazyregexp"},
	"stages":   {"pipeline", "rollout", "internal/mask", "internal/lazyregexp", "internal/baseimage", "internal/termtext", "internal/netguard", "internal/confined", "internal/gitssh"},
	"triggers": {"pipeline/event", "internal/gitssh"},
	"rollout":  {"internal/lazyregexp", "internal/netguard", "internal/confined"},
	// Leaves: they serve anyone and know no one.
	"internal/mask":         {},
	"internal/lazyregexp":   {},
	"internal/netguard":     {},
	"internal/confined":     {},
	"internal/gitssh":       {},
	"internal/baseimage":    {},
	"internal/registry":     {},
	"internal/testserver":   {"internal/baseimage"},
	"internal/kwok":         {"internal/process"},
	"internal/process":      {},
	"internal/termtext":     {},
	"internal/architecture": {},
	// The rest of internal and the binary wire the parts together.
	"internal": {"pipeline", "stages", "triggers", "rollout", "internal"},
	"cmd":      {"pipeline", "stages", "triggers", "rollout", "internal"},
}

// testsMayAlso widens the rule for tests: any may use the makers of test images,
// and that maker proves its images in the sandbox they are for.
var testsMayAlso = map[string][]string{
	"*":                  {"internal/baseimage", "internal/registry", "internal/testserver", "internal/kwok", "internal/process"},
	"internal/baseimage": {"stages/sandbox"},
}

type listedPackage struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func TestImportsGoOneWay(t *testing.T) {
	packages := list(t)
	if len(packages) < 5 {
		t.Fatalf("go list found %d packages: the test no longer sees the module", len(packages))
	}
	for _, p := range packages {
		from := strings.TrimPrefix(p.ImportPath, module)
		part, rules := rulesFor(from)
		if part == "" {
			t.Errorf("%s belongs to no known part: name it in internal/architecture", from)
			continue
		}
		// Tests obey the rule too, with the exceptions of testsMayAlso.
		for _, imported := range p.Imports {
			checkImport(t, from, part, imported, rules)
		}
		for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
			checkImport(t, from+" (test)", part, imported, slices.Concat(rules, testsMayAlso["*"], testsMayAlso[part]))
		}
	}
}

func checkImport(t *testing.T, from, part, imported string, rules []string) {
	t.Helper()
	to, ours := strings.CutPrefix(imported, module)
	if !ours || within(to, part) {
		return
	}
	if !slices.ContainsFunc(rules, func(rule string) bool { return within(to, rule) }) {
		t.Errorf("%s imports %s: %s may import only %v", from, to, part, rules)
	}
}

func within(path, part string) bool { return path == part || strings.HasPrefix(path, part+"/") }

func rulesFor(path string) (part string, rules []string) {
	for candidate, r := range allowed {
		if within(path, candidate) && len(candidate) > len(part) {
			part, rules = candidate, r
		}
	}
	return part, rules
}

func list(t *testing.T) []listedPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-tags=e2e", "-json=ImportPath,Imports,TestImports,XTestImports", module+"...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var packages []listedPackage
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listedPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}
