package pipeline

import "strings"

// PromoteSpec takes the images of a release that is verified in another
// environment, by digest.
type PromoteSpec struct {
	// From is the environment.
	From string `json:"from"`
	// App is the release's name there; that of this deploy when empty.
	App string `json:"app,omitempty"`
	// Commit must be the one that is verified there; the run's own when empty,
	// and AnyCommit takes whatever is.
	Commit string `json:"commit,omitempty"`
}

// AnyCommit stands for whatever commit is verified.
const AnyCommit = "any"

var promoteShape = object{
	name: "promote", doc: "Takes the very images that are verified in another environment.", short: "from",
	fields: []field{
		{key: "from", shape: text{mode: valueText, check: checkLabel}, required: true, doc: "The environment whose verified release is promoted."},
		{key: "app", shape: text{mode: valueText, check: checkLabel}, doc: "The release's name there; that of this deploy when not set."},
		{key: "commit", shape: text{mode: valueText, check: checkPromotedCommit}, doc: "The commit that must be verified there: the run's own when not set, any for whatever is."},
	},
}

// checkPromotedCommit accepts a full or shortened hash, or "any".
func checkPromotedCommit(value string) (Rule, string, string) {
	if value == AnyCommit {
		return "", "", ""
	}
	const shortest, longest = 7, 64
	if len(value) < shortest || len(value) > longest || strings.Trim(strings.ToLower(value), "0123456789abcdef") != "" {
		return RuleValue, "this is no commit", "write a hash of at least 7 digits, or any"
	}
	return "", "", ""
}

// checkPromotions refuses a promotion from the environment that is deployed to,
// and one that does not wait for the stage that verifies what it takes.
func (d *decoder) checkPromotions(p *Pipeline) {
	for list, stages := range map[string][]Stage{"stages.": p.Stages, "finally.": p.Finally} {
		for i := range stages {
			s := &stages[i]
			if s.Deploy == nil || s.Deploy.Promote == nil || s.Deploy.Promote.From == "" {
				continue
			}
			at, from := list+s.Name+".deploy.promote", s.Deploy.Promote.From
			if from == s.Deploy.Environment {
				d.add(d.at(at+".from"), RuleValue, "name the environment that the release comes from", "stage %q promotes from %q to itself", s.Name, from)
				continue
			}
			if source := verifiedBy(stages, s); source != "" {
				d.add(d.at(at+".from"), RuleNeeds, "add it to needs", "stage %q promotes what stage %q verifies in %q, and does not wait for it", s.Name, source, from)
			}
		}
	}
}

// verifiedBy names a stage that deploys to the environment which s promotes
// from, if s needs none that does; empty when that is as it should be.
func verifiedBy(stages []Stage, s *Stage) string {
	byName := map[string]*Stage{}
	for i := range stages {
		byName[stages[i].Name] = &stages[i]
	}
	source := ""
	for i := range stages {
		other := &stages[i]
		if other == s || other.Deploy == nil || other.Deploy.Environment != s.Deploy.Promote.From {
			continue
		}
		if needsStage(byName, s, other.Name, map[string]bool{}) {
			return ""
		}
		source = other.Name
	}
	return source
}

// needsStage tells whether s needs the stage of that name, directly or not.
func needsStage(byName map[string]*Stage, s *Stage, name string, seen map[string]bool) bool {
	for _, need := range s.Needs {
		if need == name {
			return true
		}
		if next := byName[need]; next != nil && !seen[need] {
			seen[need] = true
			if needsStage(byName, next, name, seen) {
				return true
			}
		}
	}
	return false
}
