package mask

// automaton finds all patterns at once (Aho and Corasick, 1975). Nodes keep
// their children as a linked list: almost all have one.
type automaton struct {
	root  [256]int32 // children of node 0
	nodes []node
}

type node struct {
	fail    int32 // the longest proper suffix that is a node
	child   int32 // first child, 0 for none
	sibling int32 // next child of the parent, 0 for none
	depth   int32 // length of the text that leads here
	longest int32 // longest pattern that ends here, 0 for none
	label   byte
}

func build(patterns []string) *automaton {
	a := &automaton{nodes: make([]node, 1, 1024)}
	for _, pattern := range patterns {
		at := int32(0)
		for i := range len(pattern) {
			at = a.grow(at, pattern[i])
		}
		a.nodes[at].longest = int32(len(pattern))
	}
	// Breadth first: the failure of a node is at a smaller depth.
	queue := make([]int32, 0, len(a.nodes))
	for c := range a.root {
		if a.root[c] != 0 {
			queue = append(queue, a.root[c])
		}
	}
	for i := 0; i < len(queue); i++ {
		parent := queue[i]
		for child := a.nodes[parent].child; child != 0; child = a.nodes[child].sibling {
			fail := a.next(a.nodes[parent].fail, a.nodes[child].label)
			a.nodes[child].fail = fail
			// A shorter pattern may end inside a longer one that does not.
			a.nodes[child].longest = max(a.nodes[child].longest, a.nodes[fail].longest)
			queue = append(queue, child)
		}
	}
	return a
}

func (a *automaton) grow(at int32, c byte) int32 {
	if found := a.step(at, c); found != 0 {
		return found
	}
	index := int32(len(a.nodes))
	added := node{label: c, depth: a.nodes[at].depth + 1}
	if at == 0 {
		a.root[c] = index
	} else {
		added.sibling = a.nodes[at].child
		a.nodes[at].child = index
	}
	a.nodes = append(a.nodes, added)
	return index
}

// step returns the child of a node, 0 for none.
func (a *automaton) step(at int32, c byte) int32 {
	if at == 0 {
		return a.root[c]
	}
	for child := a.nodes[at].child; child != 0; child = a.nodes[child].sibling {
		if a.nodes[child].label == c {
			return child
		}
	}
	return 0
}

// next returns the node of the longest suffix that is the start of a pattern.
func (a *automaton) next(at int32, c byte) int32 {
	for {
		if found := a.step(at, c); found != 0 || at == 0 {
			return found
		}
		at = a.nodes[at].fail
	}
}
