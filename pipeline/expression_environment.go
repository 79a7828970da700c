package pipeline

import (
	"fmt"
	"reflect"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// Names behind the functions of the language. They begin with @, which no
// expression of a file can write.
const (
	stagesDone      = "@success"
	stagesFailed    = "@failure"
	stagesEnded     = "@always"
	changedFunction = "@changed"
	eventTypeName   = "pipeline.eventView"
	stageTypeName   = "pipeline.stageView"
)

// eventView is what expressions see of an event. Fields are never absent: what
// an event does not say is empty.
type eventView struct {
	ID           string            `cel:"id"`
	Forge        string            `cel:"forge"`
	Kind         string            `cel:"kind"`
	Repository   repositoryView    `cel:"repository"`
	Ref          string            `cel:"ref"`
	Branch       string            `cel:"branch"`
	Tag          string            `cel:"tag"`
	Commit       string            `cel:"commit"`
	Before       string            `cel:"before"`
	Message      string            `cel:"message"`
	Actor        string            `cel:"actor"`
	Trust        string            `cel:"trust"`
	ChangedPaths []string          `cel:"changedPaths"`
	PathsKnown   bool              `cel:"pathsKnown"`
	PullRequest  pullRequestView   `cel:"pullRequest"`
	Schedule     string            `cel:"schedule"`
	Inputs       map[string]string `cel:"inputs"`
}

type repositoryView struct {
	FullName      string `cel:"fullName"`
	DefaultBranch string `cel:"defaultBranch"`
}

type pullRequestView struct {
	Number     int64  `cel:"number"`
	BaseBranch string `cel:"baseBranch"`
	HeadBranch string `cel:"headBranch"`
	Title      string `cel:"title"`
}

// stageView is what expressions see of a stage that has ended.
type stageView struct {
	Status  string            `cel:"status"`
	Outputs map[string]string `cel:"outputs"`
}

func viewOf(e event.Event) *eventView {
	view := &eventView{
		ID: e.ID, Forge: e.Forge, Kind: string(e.Kind), Ref: e.Ref, Branch: e.Branch, Tag: e.Tag, Commit: e.Commit, Before: e.Before,
		Message: e.Message, Actor: e.Actor, Trust: string(e.Trust), ChangedPaths: e.ChangedPaths, PathsKnown: e.PathsKnown,
		Schedule: e.Schedule, Inputs: e.Inputs,
		Repository: repositoryView{FullName: e.Repository.FullName, DefaultBranch: e.Repository.DefaultBranch},
	}
	if e.Trust == event.Fork {
		view.Trust = "fork"
	}
	if e.PullRequest != nil {
		view.PullRequest = pullRequestView{
			Number: int64(e.PullRequest.Number), BaseBranch: e.PullRequest.BaseBranch,
			HeadBranch: e.PullRequest.HeadBranch, Title: e.PullRequest.Title,
		}
	}
	return view
}

// values is what an expression is evaluated with.
type values struct {
	event  *eventView
	matrix map[string]string
	inputs map[string]string
	// ended is nil while planning: then stages and their status are unknown.
	ended *endedStages
}

// endedStages is how the stages ended, seen from one stage.
type endedStages struct {
	stages          map[string]*stageView
	success, failed bool
}

func (v *values) activation() (any, error) {
	vars := map[string]any{
		"event": v.event, "ref": v.event.Ref, "matrix": orEmpty(v.matrix), "inputs": orEmpty(v.inputs), stagesEnded: true,
	}
	if v.ended != nil {
		vars["stages"] = v.ended.stages
		vars[stagesDone] = v.ended.success
		vars[stagesFailed] = v.ended.failed
		return vars, nil
	}
	activation, err := cel.PartialVars(vars, cel.AttributePattern("stages"), cel.AttributePattern(stagesDone), cel.AttributePattern(stagesFailed))
	if err != nil {
		return nil, fmt.Errorf("preparing the variables of an expression: %w", err)
	}
	return activation, nil
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// celEnvironment is made once, at first use: it takes milliseconds.
var celEnvironment = sync.OnceValues(newEnvironment)

func newEnvironment() (*cel.Env, error) {
	texts := cel.MapType(cel.StringType, cel.StringType)
	options := []cel.EnvOption{
		ext.NativeTypes(ext.ParseStructTags(true), reflect.TypeFor[eventView](), reflect.TypeFor[stageView]()),
		cel.Variable("event", cel.ObjectType(eventTypeName)),
		cel.Variable("ref", cel.StringType),
		cel.Variable("matrix", texts),
		cel.Variable("inputs", texts),
		cel.Variable("stages", cel.MapType(cel.StringType, cel.ObjectType(stageTypeName))),
		cel.Variable(stagesDone, cel.BoolType),
		cel.Variable(stagesFailed, cel.BoolType),
		cel.Variable(stagesEnded, cel.BoolType),
		cel.Macros(
			statusMacro("success", stagesDone), statusMacro("failure", stagesFailed), statusMacro("always", stagesEnded),
			cel.GlobalVarArgMacro("changed", expandChanged),
		),
		cel.Function(changedFunction, cel.Overload("changed_event_list",
			[]*cel.Type{cel.ObjectType(eventTypeName), cel.ListType(cel.StringType)}, cel.BoolType, cel.BinaryBinding(evaluateChanged))),
		cel.ParserRecursionLimit(64),
		cel.ParserExpressionSizeLimit(maxExpressionLen),
	}
	environment, err := cel.NewEnv(append(options, textFunctions()...)...)
	if err != nil {
		return nil, fmt.Errorf("preparing the expression language: %w", err)
	}
	return environment, nil
}

// statusMacro makes a function without arguments read a variable, so that
// partial evaluation can treat it as unknown.
func statusMacro(name, variable string) cel.Macro {
	return cel.GlobalMacro(name, 0, func(factory cel.MacroExprFactory, _ ast.Expr, _ []ast.Expr) (ast.Expr, *cel.Error) {
		return factory.NewIdent(variable), nil
	})
}

func expandChanged(factory cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *cel.Error) {
	if len(args) == 0 {
		return nil, factory.NewError(0, `changed takes globs: changed("web/**")`)
	}
	return factory.NewCall(changedFunction, factory.NewIdent("event"), factory.NewList(args...)), nil
}

func evaluateChanged(lhs, rhs ref.Val) ref.Val {
	view, ok := lhs.Value().(*eventView)
	if !ok {
		byValue, isValue := lhs.Value().(eventView)
		if !isValue {
			return types.NewErr("changed: no event")
		}
		view = &byValue
	}
	globs, err := rhs.ConvertToNative(reflect.TypeFor[[]string]())
	if err != nil {
		return types.NewErr("changed: %v", err)
	}
	for _, glob := range globs.([]string) {
		if _, message, _ := checkGlob(glob); message != "" {
			return types.NewErr("changed: %s", message)
		}
	}
	if !view.PathsKnown {
		return types.True
	}
	return types.Bool(pathsCount(view.ChangedPaths, globs.([]string), nil))
}

// textFunctions are ours rather than the CEL extension's: each bounds what it
// makes, so that no expression of a few bytes can fill the memory.
func textFunctions() []cel.EnvOption {
	text := cel.StringType
	unary := func(name string, fn func(string) string) cel.EnvOption {
		return cel.Function(name, cel.MemberOverload("string_"+name, []*cel.Type{text}, text,
			cel.UnaryBinding(func(value ref.Val) ref.Val { return boundedText(fn(string(value.(types.String)))) })))
	}
	return []cel.EnvOption{
		unary("lowerAscii", strings.ToLower),
		unary("upperAscii", strings.ToUpper),
		unary("trim", strings.TrimSpace),
		cel.Function("slug", cel.Overload("slug_string", []*cel.Type{text}, text,
			cel.UnaryBinding(func(value ref.Val) ref.Val { return types.String(slug(string(value.(types.String)))) }))),
		cel.Function("replace", cel.MemberOverload("string_replace", []*cel.Type{text, text, text}, text,
			cel.FunctionBinding(func(args ...ref.Val) ref.Val {
				in, from, to := string(args[0].(types.String)), string(args[1].(types.String)), string(args[2].(types.String))
				if len(in)+strings.Count(in, from)*len(to) > maxValueLen {
					return types.WrapErr(errValueTooLong)
				}
				return types.String(strings.ReplaceAll(in, from, to))
			}))),
		cel.Function("join", cel.MemberOverload("list_join", []*cel.Type{cel.ListType(text), text}, text,
			cel.BinaryBinding(func(list, separator ref.Val) ref.Val {
				items, err := list.ConvertToNative(reflect.TypeFor[[]string]())
				if err != nil {
					return types.NewErr("join: %v", err)
				}
				length := 0
				for _, item := range items.([]string) {
					length += len(item) + len(separator.(types.String))
				}
				if length > maxValueLen {
					return types.WrapErr(errValueTooLong)
				}
				return types.String(strings.Join(items.([]string), string(separator.(types.String))))
			}))),
	}
}

func boundedText(value string) ref.Val {
	if len(value) > maxValueLen {
		return types.WrapErr(errValueTooLong)
	}
	return types.String(value)
}

// slug makes a name that Kubernetes accepts from any text: lower-case letters,
// digits and single dashes, at most 63, "x" when nothing is left.
func slug(value string) string {
	const longest = 63
	var out strings.Builder
	for _, r := range strings.ToLower(value) {
		if out.Len() >= longest {
			break
		}
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			out.WriteRune(r)
		case out.Len() > 0 && !strings.HasSuffix(out.String(), "-"):
			out.WriteByte('-')
		}
	}
	if name := strings.Trim(out.String(), "-"); name != "" {
		return name
	}
	return "x"
}
