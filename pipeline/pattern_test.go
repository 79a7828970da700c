package pipeline

import "testing"

// A pattern that does not compile must not wait for its first user.
func TestPatternsCompile(t *testing.T) {
	for _, p := range []*pattern{
		labelPattern, repositoryPattern, imagePattern, platformPattern, tagPattern, stageName, inputName, variable, labelKey, contextKey,
		annotationKey, argumentKey,
	} {
		if p.MatchString("") {
			t.Errorf("%s matches nothing at all", p)
		}
	}
}
