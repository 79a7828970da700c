package pipeline

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
)

const (
	// maxExpressionLen bounds an expression, in bytes.
	maxExpressionLen = 2048
	// maxExpressionCost bounds its evaluation, in CEL cost units.
	maxExpressionCost = 100_000
	// maxCompiled bounds the cache of compiled expressions.
	maxCompiled = 2048
)

// expression is a compiled CEL expression and what it refers to.
type expression struct {
	program cel.Program
	kind    *cel.Type
	// later is true when the value depends on how stages ended.
	later bool
	// status is true when it calls always(), failure() or success().
	status bool
	// constant is true when it refers to nothing at all.
	constant bool
	refs     []reference
	globs    []string
	roots    map[string]bool
}

// reference is stages.NAME…, matrix.NAME or inputs.NAME.
type reference struct {
	root, name string
	// field is what follows the name: "status" or "outputs" of a stage.
	field string
}

// expressionError is an expression that does not compile.
type expressionError struct {
	message string
	// column counts characters from 0 within the expression.
	column int
}

func (e *expressionError) Error() string { return e.message }

var compiled = struct {
	sync.Mutex
	byText map[string]*expression
}{byText: map[string]*expression{}}

// compile checks an expression. Results are kept: the same text is compiled at
// parsing, planning and dispatch.
func compile(source string) (*expression, error) {
	compiled.Lock()
	known := compiled.byText[source]
	compiled.Unlock()
	if known != nil {
		return known, nil
	}
	fresh, err := compileNew(source)
	if err != nil {
		return nil, err
	}
	compiled.Lock()
	defer compiled.Unlock()
	if len(compiled.byText) >= maxCompiled {
		clear(compiled.byText)
	}
	compiled.byText[source] = fresh
	return fresh, nil
}

func compileNew(source string) (*expression, error) {
	if len(source) > maxExpressionLen {
		return nil, &expressionError{message: fmt.Sprintf("the expression is longer than %d bytes", maxExpressionLen)}
	}
	environment, err := celEnvironment()
	if err != nil {
		return nil, err
	}
	checked, issues := environment.Compile(source)
	if issues.Err() != nil {
		return nil, firstIssue(issues)
	}
	program, err := environment.Program(checked, cel.CostLimit(maxExpressionCost), cel.EvalOptions(cel.OptPartialEval))
	if err != nil {
		return nil, &expressionError{message: err.Error()}
	}
	out := &expression{program: program, kind: checked.OutputType(), roots: map[string]bool{}}
	out.inspect(checked.NativeRep())
	for _, glob := range out.globs {
		if _, message, _ := checkGlob(glob); message != "" {
			return nil, &expressionError{message: "changed: " + message}
		}
	}
	return out, nil
}

var (
	pointer   = lazyregexp.New(`(?s)\n\s*\|.*$`)
	container = lazyregexp.New(` \(in container '[^']*'\)`)
)

func firstIssue(issues *cel.Issues) error {
	list := issues.Errors()
	if len(list) == 0 {
		return &expressionError{message: issues.Err().Error()}
	}
	first := list[0]
	message := container().ReplaceAllString(pointer().ReplaceAllString(first.Message, ""), "")
	message = strings.NewReplacer(stagesDone, "success()", stagesFailed, "failure()", eventTypeName, "event", stageTypeName, "stage").Replace(message)
	// The parser's list of expected tokens helps nobody.
	message, _, _ = strings.Cut(message, " expecting {")
	column := first.Location.Column()
	if first.Location.Line() > 1 {
		column = 0
	}
	return &expressionError{message: message, column: max(0, column)}
}

// inspect collects what the expression refers to.
func (e *expression) inspect(checked *ast.AST) {
	e.constant = true
	root := ast.NavigateAST(checked)
	for _, node := range ast.MatchDescendants(root, ast.AllMatcher()) {
		switch node.Kind() {
		case ast.IdentKind:
			name := node.AsIdent()
			switch name {
			case "event", "ref", "matrix", "inputs", "stages":
				e.roots[name] = true
				e.constant = false
			case stagesDone, stagesFailed, stagesEnded:
				e.status, e.constant = true, false
			}
			e.later = e.later || name == "stages" || name == stagesDone || name == stagesFailed
		case ast.SelectKind:
			e.addReference(node.AsSelect().Operand(), node.AsSelect().FieldName(), node)
		case ast.CallKind:
			call := node.AsCall()
			args := call.Args()
			switch {
			case call.FunctionName() == operators.Index && len(args) == 2:
				if name, ok := stringLiteral(args[1]); ok {
					e.addReference(args[0], name, node)
				}
			case call.FunctionName() == operators.In && len(args) == 2:
				if name, ok := stringLiteral(args[0]); ok {
					e.addReference(args[1], name, node)
				}
			case call.FunctionName() == changedFunction && len(args) == 2 && args[1].Kind() == ast.ListKind:
				for _, item := range args[1].AsList().Elements() {
					if glob, ok := stringLiteral(item); ok {
						e.globs = append(e.globs, glob)
					}
				}
			}
		}
	}
}

func (e *expression) addReference(operand ast.Expr, name string, node ast.NavigableExpr) {
	if operand.Kind() != ast.IdentKind {
		return
	}
	switch root := operand.AsIdent(); root {
	case "stages", "matrix", "inputs":
		r := reference{root: root, name: name}
		if parent, ok := node.Parent(); ok && parent.Kind() == ast.SelectKind {
			r.field = parent.AsSelect().FieldName()
		}
		e.refs = append(e.refs, r)
	}
}

func stringLiteral(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	text, ok := e.AsLiteral().Value().(string)
	return text, ok
}

// isBool and isText tell whether the expression may stand as a condition, and
// as a value in text.
func (e *expression) isBool() bool {
	return e.kind.IsExactType(cel.BoolType) || e.kind.IsExactType(cel.DynType)
}

func (e *expression) isText() bool {
	switch e.kind.Kind() {
	case types.StringKind, types.IntKind, types.UintKind, types.DoubleKind, types.BoolKind, types.DynKind:
		return true
	}
	return false
}

// errNotYet: the value depends on stages that have not ended.
var errNotYet = errors.New("the value is not known before the stages ran")

// evaluate computes the value; errNotYet when it depends on what is unknown.
func (e *expression) evaluate(vars *values) (ref.Val, error) {
	activation, err := vars.activation()
	if err != nil {
		return nil, err
	}
	value, _, err := e.program.Eval(activation)
	if err != nil {
		return nil, evaluationError(err)
	}
	if types.IsUnknown(value) {
		return nil, errNotYet
	}
	return value, nil
}

func evaluationError(err error) error {
	message := err.Error()
	switch {
	case strings.Contains(message, "cost limit exceeded"):
		return errors.New("the expression takes too long to compute")
	case strings.HasPrefix(message, "no such key: "):
		return fmt.Errorf("there is no %s; test for it with has() or in", strings.TrimPrefix(message, "no such key: "))
	}
	return err
}

// textOf turns a value into text.
func textOf(value ref.Val) (string, error) {
	switch v := value.(type) {
	case types.String:
		return string(v), nil
	case types.Bool:
		return strconv.FormatBool(bool(v)), nil
	case types.Int:
		return strconv.FormatInt(int64(v), 10), nil
	case types.Uint:
		return strconv.FormatUint(uint64(v), 10), nil
	case types.Double:
		return strconv.FormatFloat(float64(v), 'g', -1, 64), nil
	}
	return "", fmt.Errorf("the expression gives a %s, not text", value.Type().TypeName())
}
