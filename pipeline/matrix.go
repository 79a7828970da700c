package pipeline

import (
	"strconv"
	"strings"
)

// combine returns every combination of the axes, the last axis fastest. No
// axes give one empty combination.
func combine(axes []MatrixAxis) []map[string]string {
	out := []map[string]string{nil}
	for _, axis := range axes {
		next := make([]map[string]string, 0, len(out)*len(axis.Values))
		for _, base := range out {
			for _, value := range axis.Values {
				combination := make(map[string]string, len(base)+1)
				for name, other := range base {
					combination[name] = other
				}
				combination[axis.Name] = value
				next = append(next, combination)
			}
		}
		out = next
	}
	return out
}

// nodeID names a node: "unit", or "unit (go=1.26, race=true)". Values that
// would make it ambiguous are quoted.
func nodeID(name string, axes []MatrixAxis, combination map[string]string) string {
	if len(axes) == 0 {
		return name
	}
	parts := make([]string, len(axes))
	for i, axis := range axes {
		value := combination[axis.Name]
		if value == "" || strings.ContainsAny(value, `,=()"/`+"`") || strings.TrimSpace(value) != value {
			value = strconv.Quote(value)
		}
		parts[i] = axis.Name + "=" + value
	}
	return name + " (" + strings.Join(parts, ", ") + ")"
}
