package pipeline

import (
	"fmt"
	"slices"
	"strings"
)

// Graph is what can be drawn of a pipeline or a plan.
type Graph struct {
	Name string `json:"name"`
	// Nodes are in topological order, finally stages last.
	Nodes []GraphNode `json:"nodes"`
}

// GraphNode is a stage in a drawing.
type GraphNode struct {
	ID   string   `json:"id"`
	Name string   `json:"name"`
	Kind KindName `json:"kind"`
	// Detail is what the stage works on: an image, a repository, an environment.
	Detail string   `json:"detail,omitempty"`
	Needs  []string `json:"needs,omitempty"`
	// When is the condition; "false" if it is known that the stage will not run.
	When    string `json:"when,omitempty"`
	Finally bool   `json:"finally,omitempty"`
	// Layer counts from 0: one more than the highest layer of what it needs.
	Layer int `json:"layer"`
}

// Skipped tells whether planning decided against the stage.
func (n GraphNode) Skipped() bool { return n.When == decidedAgainst }

// Graph draws a plan: every node, with what the event decided.
func (p *Plan) Graph() Graph {
	g := Graph{Name: p.Pipeline}
	for _, s := range p.Stages {
		g.Nodes = append(g.Nodes, GraphNode{
			ID: s.ID, Name: s.Name, Kind: s.Kind, Needs: s.Needs, When: s.When, Finally: s.Finally,
			Detail: detail(s.Run, s.Build, s.Deploy, s.Approve),
		})
	}
	g.layer()
	return g
}

// Graph draws a pipeline without an event: a stage with a matrix is one node.
func (p *Pipeline) Graph() Graph {
	b := planner{pipeline: p, nodes: map[string][]string{}}
	for _, finally := range []bool{false, true} {
		stages := p.Stages
		if finally {
			stages = p.Finally
		}
		for _, s := range stages {
			node := PlannedStage{
				ID: s.Name, Name: s.Name, Kind: s.kind(), Needs: s.Needs, When: s.When, Finally: finally,
				Run: s.Run, Build: s.Build, Deploy: s.Deploy, Approve: s.Approve, Pos: s.Pos,
			}
			if count := combinations(s.Matrix); len(s.Matrix) > 0 {
				node.ID = fmt.Sprintf("%s ×%d", s.Name, count)
			}
			if s.Approve != nil && node.Kind != KindApprove {
				approval := node
				approval.ID, approval.Kind, approval.Run, approval.Build, approval.Deploy = s.Name+"/approval", KindApprove, nil, nil, nil
				b.stages = append(b.stages, approval)
				node.Needs, node.When, node.Approve = []string{approval.ID}, "", nil
			}
			b.stages = append(b.stages, node)
			b.nodes[s.Name] = []string{node.ID}
		}
	}
	plan := Plan{Pipeline: p.Name}
	// A parsed pipeline has no cycle; one made by hand is drawn as far as it goes.
	plan.Stages, _ = b.ordered()
	return plan.Graph()
}

func detail(run *RunSpec, build *BuildSpec, deploy *DeploySpec, approve *ApproveSpec) string {
	switch {
	case run != nil:
		return run.Image
	case build != nil:
		return build.Push
	case deploy != nil && deploy.Strategy.Canary != nil:
		return deploy.Environment + ", canary"
	case deploy != nil && deploy.Strategy.BlueGreen != nil:
		return deploy.Environment + ", blue-green"
	case deploy != nil && deploy.Strategy.Recreate != nil:
		return deploy.Environment + ", recreate"
	case deploy != nil:
		return deploy.Environment
	case approve != nil:
		return strings.Join(approve.From, ", ")
	}
	return ""
}

// layer numbers the layers. Finally stages begin above all others.
func (g *Graph) layer() {
	layers := map[string]int{}
	highest := -1
	for i := range g.Nodes {
		n := &g.Nodes[i]
		if n.Finally {
			continue
		}
		g.place(n, layers, 0)
		highest = max(highest, n.Layer)
	}
	for i := range g.Nodes {
		if g.Nodes[i].Finally {
			g.place(&g.Nodes[i], layers, highest+1)
		}
	}
}

func (g *Graph) place(n *GraphNode, layers map[string]int, lowest int) {
	n.Layer = lowest
	for _, need := range n.Needs {
		n.Layer = max(n.Layer, layers[need]+1)
	}
	layers[n.ID] = n.Layer
}

// layersOf groups the nodes by layer.
func (g Graph) layersOf() [][]GraphNode {
	var layers [][]GraphNode
	for _, n := range g.Nodes {
		for len(layers) <= n.Layer {
			layers = append(layers, nil)
		}
		layers[n.Layer] = append(layers[n.Layer], n)
	}
	return layers
}

// needNames names what a node needs, all nodes of a matrix by their stage.
func (g Graph) needNames(n GraphNode) []string {
	total := map[string]int{}
	name := map[string]string{}
	for _, other := range g.Nodes {
		name[other.ID] = other.Name
		if other.Kind != KindApprove || other.ID == other.Name {
			total[other.Name]++
		}
	}
	needed := map[string]int{}
	for _, need := range n.Needs {
		needed[name[need]]++
	}
	var out []string
	for _, need := range n.Needs {
		stage := name[need]
		if total[stage] > 1 && needed[stage] == total[stage] {
			need = fmt.Sprintf("%s ×%d", stage, total[stage])
		}
		if !slices.Contains(out, need) {
			out = append(out, need)
		}
	}
	return out
}
