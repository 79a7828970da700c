package pipeline

import (
	"slices"
	"strconv"
	"strings"
)

// didYouMean returns a hint that names the candidate nearest to word, or lists
// the candidates when none is near and they are few.
func didYouMean(word string, candidates []string) string {
	if near := nearest(word, candidates); near != "" {
		return "did you mean " + strconv.Quote(near) + "?"
	}
	const few = 12
	if len(candidates) == 0 || len(candidates) > few {
		return ""
	}
	sorted := slices.Sorted(slices.Values(candidates))
	return "possible here: " + strings.Join(sorted, ", ")
}

// nearest returns the candidate with the fewest edits from word, the first in
// the alphabet among equals, or "" when all are too far to be a slip.
func nearest(word string, candidates []string) string {
	const longest = 64
	if len(word) > longest {
		return ""
	}
	lower := strings.ToLower(word)
	best, bestDistance := "", max(1, min(3, len(word)/3))+1
	for _, candidate := range slices.Sorted(slices.Values(candidates)) {
		if len(candidate) > longest {
			continue
		}
		if distance := editDistance(lower, strings.ToLower(candidate)); distance < bestDistance {
			best, bestDistance = candidate, distance
		}
	}
	return best
}

// editDistance counts insertions, deletions, substitutions and swaps of
// neighbours (optimal string alignment).
func editDistance(a, b string) int {
	beforeLast := make([]int, len(b)+1)
	last := make([]int, len(b)+1)
	current := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		current[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			current[j] = min(last[j]+1, current[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], beforeLast[j-2]+1)
			}
		}
		beforeLast, last, current = last, current, beforeLast
	}
	return last[len(b)]
}
