package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxFileSize bounds a pipeline file, in bytes. A file is hostile until read.
const MaxFileSize = 1 << 20

// maxNodes bounds the values of a file with all aliases expanded.
const maxNodes = 100_000

type nodeKind int

const (
	nullNode nodeKind = iota
	boolNode
	intNode
	floatNode
	stringNode
	listNode
	mapNode
)

// String names the kind as messages do.
func (k nodeKind) String() string {
	return [...]string{"nothing", "a boolean", "a number", "a number", "text", "a list", "a map"}[k]
}

// node is a value of the file with its place: YAML with aliases and merge keys
// resolved, and nothing of the library that read it.
type node struct {
	kind nodeKind
	// text is the value of a scalar; of numbers and booleans, as written.
	text    string
	pos     Position
	quoted  bool // single or double quotes: the text may hold escapes
	block   bool // | or >
	items   []*node
	entries []entry
	size    int // with all below it
}

type entry struct{ key, value *node }

func (n *node) scalar() bool { return n.kind != listNode && n.kind != mapNode }

// readYAML turns the bytes of a file into its one document. It returns nil
// when the file could not be read at all; problems says why.
func readYAML(file string, data []byte, problems *problemList) *node {
	start := Position{File: file, Line: 1, Column: 1}
	if len(data) > MaxFileSize {
		problems.add(start, RuleLimit, "move scripts into files of the repository and call them",
			"the file is %d bytes long; at most %d are allowed", len(data), MaxFileSize)
		return nil
	}
	if at, what := badText(file, data); what != "" {
		problems.add(at, RuleSyntax, "save the file as UTF-8 text", "%s", what)
		return nil
	}
	tokens := lexer.Tokenize(string(data))
	if at, what := tooComplex(tokens); what != "" {
		at.File = file
		problems.add(at, RuleLimit, "split it into several pipelines under .tidegate/", "%s", what)
		return nil
	}
	// Explicit keys cost the parser much and pipelines nothing.
	if i := slices.IndexFunc(tokens, func(t *token.Token) bool { return t.Type == token.MappingKeyType }); i >= 0 {
		at := tokenPosition(tokens[i])
		at.File = file
		problems.add(at, RuleSyntax, "write key: value", "the indicator ? for explicit keys is not allowed")
		return nil
	}
	parsed, err := parseTokens(tokens)
	if err != nil {
		at := syntaxPosition(file, err)
		problems.add(at, RuleSyntax, syntaxHint(data, at), "%s", syntaxMessage(err))
		return nil
	}
	var documents []ast.Node
	for _, document := range parsed.Docs {
		if document.Body != nil && document.Body.Type() != ast.DirectiveType && document.Body.Type() != ast.CommentType {
			documents = append(documents, document.Body)
		}
	}
	if len(documents) == 0 {
		problems.add(start, RuleSyntax, "begin with \"version: 1\"; see \"tidegate schema\"", "the file is empty")
		return nil
	}
	b := builder{file: file, anchors: map[string]*node{}, problems: problems}
	if len(documents) > 1 {
		problems.add(b.place(documents[1]), RuleSyntax, "put each pipeline into a file of its own under .tidegate/",
			"a second document begins here; a file holds one pipeline")
	}
	root := b.build(documents[0])
	if b.tooLarge {
		return nil
	}
	return root
}

// badText finds bytes that are not text, before any parser sees them.
func badText(file string, data []byte) (Position, string) {
	line, column := 1, 1
	for rest := data; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		at := Position{File: file, Line: line, Column: column}
		switch {
		case r == utf8.RuneError && size == 1:
			return at, "this byte is not UTF-8"
		case r == '\n':
			line, column = line+1, 0
		case r < ' ' && r != '\t' && r != '\r', r == 0x7f, r == '\uFEFF' && len(rest) != len(data), r == '\u2028', r == '\u2029', r == '\u0085':
			return at, fmt.Sprintf("the control character U+%04X is not allowed", r)
		}
		column++
		rest = rest[size:]
	}
	return Position{}, ""
}

// parseTokens calls the YAML parser. It panics on some malformed input; a file
// from outside must not end the process.
func parseTokens(tokens token.Tokens) (file *ast.File, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			file, err = nil, fmt.Errorf("malformed YAML (%v)", cause)
		}
	}()
	// Duplicate keys are ours to report: all of them, not the first.
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

func tokenPosition(t *token.Token) Position {
	if t == nil || t.Position == nil {
		return Position{Line: 1, Column: 1}
	}
	return Position{Line: max(1, t.Position.Line), Column: max(1, t.Position.Column)}
}

func syntaxPosition(file string, err error) Position {
	at := Position{Line: 1, Column: 1}
	var syntax yaml.Error
	if errors.As(err, &syntax) {
		at = tokenPosition(syntax.GetToken())
	}
	at.File = file
	return at
}

func syntaxMessage(err error) string {
	var syntax yaml.Error
	if errors.As(err, &syntax) {
		return "not valid YAML: " + printable(syntax.GetMessage())
	}
	return "not valid YAML: " + printable(err.Error())
}

// syntaxHint guesses what was meant from the line that does not parse.
func syntaxHint(data []byte, at Position) string {
	lines := bytes.SplitN(data, []byte("\n"), at.Line+1)
	if at.Line > len(lines) {
		return ""
	}
	line := lines[at.Line-1]
	indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
	switch {
	case bytes.ContainsRune(indent, '\t'):
		return "indent with spaces: YAML does not allow tabs"
	case bytes.Count(line, []byte(": ")) > 1 && !bytes.ContainsAny(line, "{\"'"):
		return `put a value that holds ": " into quotes`
	}
	return ""
}

// printable makes text of the library, which may repeat the file's, fit for a
// message: one line, no control characters.
func printable(text string) string {
	first, _, _ := strings.Cut(text, "\n")
	return clip(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, first))
}

// builder turns the library's tree into nodes.
type builder struct {
	file     string
	anchors  map[string]*node
	problems *problemList
	tooLarge bool
}

// place is where a value begins. The library places a block mapping at its
// first colon; readers expect its first key.
func (b *builder) place(n ast.Node) Position {
	at := Position{Line: 1, Column: 1}
	switch v := n.(type) {
	case nil:
	case *ast.MappingNode:
		if !v.IsFlowStyle && len(v.Values) > 0 {
			return b.place(v.Values[0].Key)
		}
		at = tokenPosition(v.Start)
	case *ast.MappingValueNode:
		return b.place(v.Key)
	default:
		at = tokenPosition(n.GetToken())
	}
	at.File = b.file
	return at
}

func (b *builder) build(n ast.Node) *node {
	out := &node{kind: nullNode, pos: b.place(n), size: 1}
	switch v := n.(type) {
	case nil, *ast.NullNode:
	case *ast.BoolNode:
		out.kind, out.text = boolNode, v.Token.Value
	case *ast.IntegerNode:
		out.kind, out.text = intNode, v.Token.Value
	case *ast.FloatNode:
		out.kind, out.text = floatNode, v.Token.Value
	case *ast.InfinityNode:
		out.kind, out.text = floatNode, v.Token.Value
	case *ast.NanNode:
		out.kind, out.text = floatNode, v.Token.Value
	case *ast.StringNode:
		out.kind, out.text = stringNode, v.Value
		out.quoted = v.Token.Type == token.SingleQuoteType || v.Token.Type == token.DoubleQuoteType
	case *ast.LiteralNode:
		out.kind, out.text, out.block = stringNode, v.Value.Value, true
	case *ast.SequenceNode:
		out.kind = listNode
		for _, item := range v.Values {
			b.grow(out, b.build(item))
		}
	case *ast.MappingNode:
		b.buildMap(out, v.Values)
	case *ast.MappingValueNode:
		b.buildMap(out, []*ast.MappingValueNode{v})
	case *ast.AnchorNode:
		value := b.build(v.Value)
		if v.Name != nil && v.Name.GetToken() != nil {
			b.anchors[v.Name.GetToken().Value] = value
		}
		return value
	case *ast.AliasNode:
		return b.alias(v, out)
	case *ast.TagNode:
		b.problems.add(out.pos, RuleSyntax, "remove it; quote the value if it must be text", "YAML tags are not allowed")
		return b.build(v.Value)
	default:
		b.problems.add(out.pos, RuleSyntax, "", "this YAML construct is not allowed in a pipeline file")
	}
	return out
}

func (b *builder) alias(v *ast.AliasNode, out *node) *node {
	name := ""
	if v.Value != nil && v.Value.GetToken() != nil {
		name = v.Value.GetToken().Value
	}
	value, ok := b.anchors[name]
	if !ok {
		known := make([]string, 0, len(b.anchors))
		for anchor := range b.anchors {
			known = append(known, anchor)
		}
		b.problems.add(out.pos, RuleSyntax, didYouMean(name, known), "there is no anchor &%s above this alias", clip(name))
		return out
	}
	return value
}

// grow adds an item and refuses a document that aliases blow up.
func (b *builder) grow(parent, item *node) {
	parent.items = append(parent.items, item)
	b.count(parent, item)
}

func (b *builder) count(parent, child *node) {
	parent.size += child.size
	if parent.size > maxNodes && !b.tooLarge {
		b.tooLarge = true
		b.problems.add(parent.pos, RuleLimit, "use fewer aliases", "with its aliases expanded the file has more than %d values", maxNodes)
	}
	parent.size = min(parent.size, maxNodes+1)
}

func (b *builder) buildMap(out *node, values []*ast.MappingValueNode) {
	out.kind = mapNode
	own := map[string]Position{}
	var merges []*node
	for _, pair := range values {
		if b.tooLarge {
			return
		}
		if pair.Key.IsMergeKey() {
			merges = append(merges, b.merged(pair)...)
			continue
		}
		key := b.build(pair.Key)
		value := b.build(pair.Value)
		if !key.scalar() || key.kind == nullNode {
			b.problems.add(key.pos, RuleType, "", "a key must be text, not %s", key.kind)
			continue
		}
		if first, twice := own[key.text]; twice {
			b.problems.add(key.pos, RuleDuplicate, fmt.Sprintf("it is set in line %d already", first.Line),
				"the key %q stands here twice", clip(key.text))
			continue
		}
		own[key.text] = key.pos
		if value.kind == nullNode && value.text == "" && value.size == 1 && pair.Value != nil && pair.Value.Type() == ast.NullType {
			value.pos = key.pos
		}
		out.entries = append(out.entries, entry{key: key, value: value})
		b.count(out, value)
	}
	b.merge(out, own, merges)
}

// merged returns the maps that a merge key names.
func (b *builder) merged(pair *ast.MappingValueNode) []*node {
	value := b.build(pair.Value)
	sources := []*node{value}
	if value.kind == listNode {
		sources = value.items
	}
	for _, source := range sources {
		if source.kind != mapNode {
			b.problems.add(b.place(pair.Value), RuleType, "write <<: *anchor", "a merge key takes a map, not %s", source.kind)
			return nil
		}
	}
	return sources
}

// merge adds the keys of the sources that the map does not set itself; the
// first source that has a key wins (YAML merge key type).
func (b *builder) merge(out *node, own map[string]Position, sources []*node) {
	for _, source := range sources {
		for _, pair := range source.entries {
			if _, set := own[pair.key.text]; set {
				continue
			}
			own[pair.key.text] = pair.key.pos
			out.entries = append(out.entries, pair)
			b.count(out, pair.value)
			if b.tooLarge {
				return
			}
		}
	}
}

// clip bounds text of the file that a message repeats.
func clip(text string) string {
	const longest = 80
	if utf8.RuneCountInString(text) <= longest {
		return text
	}
	return string(bytes.Runes([]byte(text))[:longest-1]) + "…"
}
