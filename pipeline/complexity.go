package pipeline

import (
	"fmt"

	"github.com/goccy/go-yaml/token"
)

// Limits of what the YAML parser is given. Its recursion follows the nesting,
// it is quadratic in the keys of one mapping, and it keeps for every value the
// keys above it.
const (
	// maxDepth bounds how deep values nest.
	maxDepth   = 48
	maxTokens  = 100_000
	maxKeys    = 12_000
	maxMapKeys = 1_200
	maxKeyLen  = 256
	// maxPaths bounds the sum over all values of the keys above each, in bytes.
	maxPaths = 16 << 20
	// maxDocuments is small: a file holds one, and a second is reported.
	maxDocuments = 4
)

// level is a mapping or list that is open at a token.
type level struct {
	column int // of block collections; 0 in flow collections
	keys   int
	key    int // length of the key that is open
}

// complexity measures tokens before they are parsed.
type complexity struct {
	levels    []level
	path      int // sum of the open keys
	paths     int
	keys      int
	flow      int
	documents int
	run, line int // structural tokens in a row of one line
}

// tooComplex finds what would cost the parser too much.
func tooComplex(tokens token.Tokens) (at Position, message string) {
	if len(tokens) > maxTokens {
		return tokenPosition(tokens[maxTokens]), fmt.Sprintf("the file has more than %d values", maxTokens)
	}
	var c complexity
	for i, t := range tokens {
		if t.Position == nil {
			continue
		}
		if what := c.add(tokens, i, t); what != "" {
			return tokenPosition(t), what
		}
	}
	return Position{}, ""
}

func (c *complexity) add(tokens token.Tokens, i int, t *token.Token) string {
	switch t.Type {
	case token.SequenceStartType, token.MappingStartType:
		c.flow++
		c.open(level{})
	case token.SequenceEndType, token.MappingEndType:
		if c.flow > 0 {
			c.flow--
			c.close()
		}
	case token.DocumentHeaderType, token.DocumentEndType:
		c.documents++
		for len(c.levels) > 0 {
			c.close()
		}
		c.flow = 0
	case token.SequenceEntryType:
		if c.flow == 0 {
			c.block(t.Position.Column)
		}
		c.row(t)
	case token.MappingKeyType, token.AnchorType, token.TagType, token.AliasType, token.DirectiveType:
		c.row(t)
	case token.MappingValueType:
		if what := c.key(tokens, i, t); what != "" {
			return what
		}
	}
	c.paths += c.path
	switch {
	case len(c.levels) > maxDepth, c.run > 2*maxDepth:
		return fmt.Sprintf("values nest deeper than %d levels", maxDepth)
	case c.keys > maxKeys:
		return fmt.Sprintf("the file has more than %d keys", maxKeys)
	case c.paths > maxPaths:
		return "too many values stand below long keys"
	case c.documents > maxDocuments:
		return "a file holds one pipeline, not a stream of documents"
	}
	return ""
}

// key counts a key, which is the token before its colon.
func (c *complexity) key(tokens token.Tokens, i int, t *token.Token) string {
	c.keys++
	column, length := t.Position.Column, 0
	if i > 0 && tokens[i-1].Position != nil {
		column, length = tokens[i-1].Position.Column, len(tokens[i-1].Value)
	}
	if length > maxKeyLen {
		return fmt.Sprintf("a key is longer than %d characters", maxKeyLen)
	}
	if c.flow == 0 {
		c.block(column)
	}
	if len(c.levels) == 0 {
		return ""
	}
	top := &c.levels[len(c.levels)-1]
	c.path += length - top.key
	top.key = length
	top.keys++
	if top.keys > maxMapKeys {
		return fmt.Sprintf("a map has more than %d keys", maxMapKeys)
	}
	return ""
}

// block goes to the collection whose items begin at a column: it closes those
// that are further right and opens a new one unless there is one.
func (c *complexity) block(column int) {
	for len(c.levels) > 0 && c.levels[len(c.levels)-1].column > column {
		c.close()
	}
	if len(c.levels) == 0 || c.levels[len(c.levels)-1].column < column {
		c.open(level{column: column})
	}
}

func (c *complexity) open(l level) { c.levels = append(c.levels, l) }

func (c *complexity) close() {
	last := len(c.levels) - 1
	c.path -= c.levels[last].key
	c.levels = c.levels[:last]
}

// row counts tokens that may nest without indentation, as in "- - - x".
func (c *complexity) row(t *token.Token) {
	if t.Position.Line != c.line {
		c.run, c.line = 0, t.Position.Line
	}
	c.run++
}
