package differential

import (
	"regexp"
	"strconv"
	"strings"
)

// Intended is a difference that is meant to be. Case, Fact, Ours and Theirs are
// regular expressions that have to match whole; {1}, {2} … in Theirs stand for
// what the groups of Ours matched.
type Intended struct {
	Case, Fact, Ours, Theirs string
	// Why it is meant to be.
	Why string
}

// Split takes the intended differences out of those found in a case. It also
// tells which rows of the table were needed.
func Split(name string, found []Difference, table []Intended) (left []Difference, used []int) {
	for _, difference := range found {
		row := -1
		for i := range table {
			if table[i].matches(name, difference) {
				row = i
				break
			}
		}
		if row < 0 {
			left = append(left, difference)
		} else {
			used = append(used, row)
		}
	}
	return left, used
}

func (i *Intended) matches(name string, d Difference) bool {
	if match(i.Case, name) == nil || match(i.Fact, d.Fact) == nil {
		return false
	}
	groups := match(i.Ours, d.Ours)
	if groups == nil {
		return false
	}
	theirs := i.Theirs
	for n, group := range groups {
		theirs = strings.ReplaceAll(theirs, "{"+strconv.Itoa(n)+"}", regexp.QuoteMeta(group))
	}
	return match(theirs, d.Theirs) != nil
}

// match matches the whole text and gives its groups.
func match(pattern, text string) []string {
	return regexp.MustCompile(`^(?s:` + pattern + `)$`).FindStringSubmatch(text)
}

// intended are all differences between Tidegate and BuildKit v0.33 that are
// meant to be. A row that no case needs fails the test.
var intended = []Intended{
	{
		Case: `.*`, Fact: `history \d+ comment`, Ours: `tidegate`, Theirs: `buildkit\.dockerfile\.v0`,
		Why: "the comment names the builder",
	},
	{
		Case: `.*`, Fact: `history \d+ created_by`, Ours: `(.*)`, Theirs: `{1} # buildkit`,
		Why: "BuildKit marks commands as its own",
	},
	{
		Case: `.*`, Fact: `history \d+ created_by`, Ours: `(ARG \w+)(=.*)?`, Theirs: `{1}=.*`,
		Why: "values of arguments stay out of the history: people pass tokens in them",
	},
	{
		Case: `.*`, Fact: `history \d+ created_by`, Ours: `RUN \|(\d+) .* (/bin/sh -c .*)`, Theirs: `RUN \|{1} .* {2} # buildkit`,
		Why: "values of arguments stay out of the history: people pass tokens in them",
	},
	{
		Case: `run-heredoc-interpreter`, Fact: `history \d+ created_by`, Ours: `RUN #!/bin/busybox ash.*`, Theirs: `RUN /bin/sh -c /dev/pipes/EOF # buildkit`,
		Why: "the history shows the script, not the pipe it came through",
	},
	{
		Case: `.*`, Fact: `/(dev|proc|sys) type`, Ours: `\(none\)`, Theirs: `directory`,
		Why: "a layer holds what the command wrote; BuildKit leaves the mount points that its sandbox made",
	},
	{
		Case: `workdir-(exists|root)|run-nothing|mount-cache-shared|copy-wildcard-none`, Fact: `history \d+ empty_layer`, Ours: `true`, Theirs: `\(none\)`,
		Why: "what changes nothing makes no layer; BuildKit adds an empty one",
	},
	{
		Case: `target-index`, Fact: `outcome`, Ours: `an image`, Theirs: `.*target stage "1" could not be found`,
		Why: "--target takes a stage's number too, as COPY --from does",
	},
	{
		Case: `add-chown|copy-directory-mode`, Fact: `/[xz] mode`, Ours: `0755`, Theirs: `0600`,
		Why: "--chmod is for what is copied: BuildKit also gives it to the directory made for it, which nobody can enter then",
	},
	{
		Case: `copy-chown-unknown`, Fact: `outcome`, Ours: `.*user "stranger" is not in the image's /etc/passwd.*`, Theirs: `an image`,
		Why: "an owner that does not exist is an error; BuildKit makes the file root's without a word",
	},
	{
		Case: `user-base`, Fact: `/srv(/app)? owner`, Ours: `0:0`, Theirs: `65534:65534`,
		Why: "a working directory that only the base's configuration names is made by the OCI runtime, as root's",
	},
}
