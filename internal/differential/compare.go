package differential

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Absent is the value of a fact that an image does not have.
const Absent = "(none)"

// Difference is a fact in which two images differ.
type Difference struct{ Fact, Ours, Theirs string }

func (d Difference) String() string {
	return fmt.Sprintf("%s\n    tidegate: %s\n    buildkit: %s", d.Fact, d.Ours, d.Theirs)
}

// Compare gives the facts in which two images differ, sorted. Of a file that
// only one has, only the type is given.
func Compare(ours, theirs Description) []Difference {
	value := func(d Description, fact string) string {
		if value, ok := d[fact]; ok {
			return value
		}
		return Absent
	}
	all := maps.Clone(ours)
	maps.Copy(all, theirs)
	var differences []Difference
	for _, fact := range slices.Sorted(maps.Keys(all)) {
		a, b := value(ours, fact), value(theirs, fact)
		if a == b || (strings.HasPrefix(fact, "/") && onlyType(ours, theirs, fact)) {
			continue
		}
		differences = append(differences, Difference{fact, a, b})
	}
	return differences
}

func onlyType(ours, theirs Description, fact string) bool {
	name, what, _ := strings.Cut(fact, " ")
	_, a := ours[name+" type"]
	_, b := theirs[name+" type"]
	return a != b && what != "type"
}
