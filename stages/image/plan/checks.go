package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
)

// CheckArgument is the build argument that replaces a file's check directive.
const CheckArgument = "BUILDKIT_DOCKERFILE_CHECK"

// FindingsError says that build checks found something in a file whose check
// directive (or CheckArgument) asks for that to be an error.
type FindingsError struct{ Findings []Warning }

func (e *FindingsError) Error() string {
	var b strings.Builder
	b.WriteString("the file's check directive makes findings errors (error=true):")
	for _, w := range e.Findings {
		fmt.Fprintf(&b, "\n  %s: %s: %s", w.Pos, w.Rule, w.Message)
	}
	return b.String()
}

// findings are the warnings that a rule made.
func findings(warnings []Warning) []Warning {
	return slices.DeleteFunc(slices.Clone(warnings), func(w Warning) bool { return w.Rule == "" })
}

// checkFile runs the rules that look at the file as a whole.
func (d *Document) checkFile() {
	names := map[string]bool{}
	for i := range d.stages {
		stage := &d.stages[i]
		if stage.Name == "" {
			continue
		}
		if stage.Name == "context" || stage.Name == Scratch {
			d.linter.Run(&linter.RuleReservedStageName, stage.Location, linter.RuleReservedStageName.Format(stage.Name))
		}
		if names[stage.Name] {
			d.linter.Run(&linter.RuleDuplicateStageName, stage.Location, linter.RuleDuplicateStageName.Format(stage.Name))
		}
		names[stage.Name] = true
	}
	d.checkCasing()
}

// checkCasing wants every instruction in the case that most of them have.
func (d *Document) checkCasing() {
	type word struct {
		text     string
		location []parser.Range
	}
	var words []word
	for i := range d.stages {
		words = append(words, word{d.stages[i].OrigCmd, d.stages[i].Location})
		for _, command := range d.stages[i].Commands {
			words = append(words, word{command.Name(), command.Location()})
		}
	}
	lower, upper := 0, 0
	for _, w := range words {
		switch w.text {
		case strings.ToLower(w.text):
			lower++
		case strings.ToUpper(w.text):
			upper++
		}
	}
	casing, want := "uppercase", strings.ToUpper
	if lower > upper {
		casing, want = "lowercase", strings.ToLower
	}
	for _, w := range words {
		if w.text != want(w.text) {
			d.linter.Run(&linter.RuleConsistentInstructionCasing, w.location, linter.RuleConsistentInstructionCasing.Format(w.text, casing))
		}
	}
}

// checkDefaults wants base names that are valid with no --build-arg at all.
func (m *maker) checkDefaults() {
	defaults := m.automatic.clone()
	for i := range m.global {
		for _, arg := range m.global[i].Args {
			if arg.Value == nil {
				continue
			}
			result, err := m.process(*arg.Value, defaults)
			if err != nil {
				return // told when the argument is evaluated
			}
			defaults.set(arg.Key, result.Result)
		}
	}
	for i := range m.stages {
		stage := &m.stages[i]
		result, err := m.process(stage.BaseName, defaults)
		if err != nil {
			return
		}
		if _, err := reference.ParseNormalizedNamed(result.Result); err != nil {
			m.linter.Run(&linter.RuleInvalidDefaultArgInFrom, stage.Location, linter.RuleInvalidDefaultArgInFrom.Format(stage.BaseName))
		}
	}
}

// checkBaseWord reports arguments of a FROM that nothing declares.
func (m *maker) checkBaseWord(stage *instructions.Stage, unmatched map[string]struct{}) {
	declared := slices.Clone(m.globals.Keys())
	for i := range m.global {
		for _, arg := range m.global[i].Args {
			declared = append(declared, arg.Key)
		}
	}
	for _, name := range sortedKeys(unmatched) {
		if slices.Contains(declared, name) {
			continue
		}
		near, _ := suggest.Search(name, declared, true)
		m.linterFor(stage.Comments).Run(&linter.RuleUndefinedArgInFrom, stage.Location, linter.RuleUndefinedArgInFrom.Format(name, near))
	}
}

// checkPlatform reports a --platform that says what holds anyway, or what is
// better left to whoever builds.
func (m *maker) checkPlatform(stage *instructions.Stage, result shell.ProcessWordResult) {
	lint := m.linterFor(stage.Comments)
	if len(result.Matched) == 1 && len(result.Unmatched) == 0 {
		value, _ := m.globals.Get("TARGETPLATFORM")
		if _, ok := result.Matched["TARGETPLATFORM"]; ok && result.Result == value {
			lint.Run(&linter.RuleRedundantTargetPlatform, stage.Location, linter.RuleRedundantTargetPlatform.Format(stage.Platform))
		}
		return
	}
	if len(result.Matched) > 0 || len(result.Unmatched) > 0 {
		return
	}
	p, err := ParsePlatform(result.Result)
	if err != nil || strings.Contains(stage.Name, p.OS) || strings.Contains(stage.Name, p.Architecture) {
		return
	}
	lint.Run(&linter.RuleFromPlatformFlagConstDisallowed, stage.Location, linter.RuleFromPlatformFlagConstDisallowed.Format(result.Result))
}

// checkBasePlatform reports a base image that is for another platform.
func (m *maker) checkBasePlatform(stage *instructions.Stage, base Source, image Image) {
	have := image.Config.Platform
	if have.OS == base.Platform.OS && have.Architecture == base.Platform.Architecture {
		return
	}
	m.linterFor(stage.Comments).Run(&linter.RuleInvalidBaseImagePlatform, stage.Location,
		linter.RuleInvalidBaseImagePlatform.Format(base.Reference, FormatPlatform(base.Platform), FormatPlatform(have)))
}

// linterFor is the linter with what comments above an instruction change.
func (d *Document) linterFor(comments []string) *linter.Linter {
	return d.linter.WithMergedConfigFromComments(comments)
}

// checkUndefined reports variables that nothing defines. An ARG without a value
// counts as defined.
func (w *walker) checkUndefined(unmatched map[string]struct{}) {
	for _, name := range sortedKeys(unmatched) {
		if w.declared[name] || name == "BUILDKIT_SBOM_SCAN_CONTEXT" || name == "BUILDKIT_SBOM_SCAN_STAGE" {
			continue
		}
		near, _ := suggest.Search(name, w.env.Keys(), true)
		w.lint.Run(&linter.RuleUndefinedVar, w.location, linter.RuleUndefinedVar.Format(name, near))
	}
}

// once is where an instruction that should stand once in a stage stood last.
type once struct{ location []parser.Range }

// checkOnce reports the earlier of two instructions of which only one counts.
func (w *walker) checkOnce(command instructions.Command, last *once) {
	if last.location != nil {
		w.lint.Run(&linter.RuleMultipleInstructionsDisallowed, last.location, linter.RuleMultipleInstructionsDisallowed.Format(command.Name()))
	}
	last.location = command.Location()
}

// Names of variables that likely hold a secret: one of the first words, whole or
// set off by underscores, and none of the second.
var (
	secretName = lazyregexp.New(`(?i)(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)`)
	publicName = lazyregexp.New(`(?i)(?:_|^)(?:public|file|version)(?:_|$)`)
)

func (w *walker) checkSecret(instruction, name string) {
	if secretName().MatchString(name) && !publicName().MatchString(name) {
		w.lint.Run(&linter.RuleSecretsUsedInArgOrEnv, w.location, linter.RuleSecretsUsedInArgOrEnv.Format(instruction, name))
	}
}

// checkIgnored reports sources that the ignore file leaves out.
func (w *walker) checkIgnored(instruction string, sources []string) {
	if w.options.Ignored == nil {
		return
	}
	for _, source := range sources {
		if w.options.Ignored(source) {
			w.lint.Run(&linter.RuleCopyIgnoredFile, w.location, linter.RuleCopyIgnoredFile.Format(instruction, strings.TrimPrefix(source, "./")))
		}
	}
}

func sortedKeys[V any](set map[string]V) []string {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
