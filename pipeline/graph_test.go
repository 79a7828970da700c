package pipeline

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGraphsAreDrawnInEveryFormat(t *testing.T) {
	p, err := Parse(".tidegate.yaml", []byte(shop))
	require.NoError(t, err)
	golden(t, "testdata/graph/pipeline.txt", p.Graph().Text())
	plan, err := PlanFor(p, push("feature"))
	require.NoError(t, err)
	g := plan.Graph()
	golden(t, "testdata/graph/plan.txt", g.Text())
	golden(t, "testdata/graph/plan.mermaid", g.Mermaid())
	golden(t, "testdata/graph/plan.dot", g.DOT())
	golden(t, "testdata/graph/plan.svg", g.SVG())
}

func TestGraphsQuoteHostileText(t *testing.T) {
	g := Graph{Name: "a\"]\n<script>", Nodes: []GraphNode{{ID: "x (a=\"\\\"]--> <b>\x1b[31m\")", Name: "x", Kind: KindRun}}}
	golden(t, "testdata/graph/hostile.txt", g.Text())
	golden(t, "testdata/graph/hostile.mermaid", g.Mermaid())
	golden(t, "testdata/graph/hostile.dot", g.DOT())
	golden(t, "testdata/graph/hostile.svg", g.SVG())
}
