package pipeline

import (
	"fmt"
	"path"
	"strings"
	"time"
	_ "time/tzdata" // time zones must be known on machines that have no database of them

	"github.com/bmatcuk/doublestar/v4"
	"github.com/robfig/cron/v3"
)

var (
	labelPattern      = newPattern(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	repositoryPattern = newPattern(`^([A-Za-z0-9.-]+(:[0-9]{1,5})?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$`)
	imagePattern      = newPattern(`^[A-Za-z0-9][A-Za-z0-9._:/@-]*$`)
	batchPattern      = newPattern(`^([1-9][0-9]{0,4}|[1-9][0-9]?%|100%)$`)
	platformPattern   = newPattern(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$`)
)

func checkName(value string) (Rule, string, string) {
	if !stageName.MatchString(value) {
		return RuleName, fmt.Sprintf("%q is not a name", clip(value)), "use letters, digits, - and _, beginning with a letter, at most 63"
	}
	return "", "", ""
}

func checkLabel(value string) (Rule, string, string) {
	if !labelPattern.MatchString(value) {
		return RuleName, fmt.Sprintf("%q is not a name that Kubernetes accepts", clip(value)),
			"use lower-case letters, digits and -, at most 63; ${{ slug(…) }} makes such a name"
	}
	return "", "", ""
}

func checkBatch(value string) (Rule, string, string) {
	if !batchPattern.MatchString(value) {
		return RuleValue, fmt.Sprintf("%q is no number of pods", clip(value)), "write a number such as 2, or a share such as 25%"
	}
	return "", "", ""
}

func checkVariable(value string) (Rule, string, string) {
	for _, reserved := range []string{"TIDEGATE_", "MATRIX_"} {
		if strings.HasPrefix(value, reserved) {
			return RuleName, fmt.Sprintf("variables that begin with %s are set by Tidegate", reserved), "choose another name"
		}
	}
	return "", "", ""
}

func checkNoExpression(value string) (Rule, string, string) {
	if strings.Contains(value, openMark) {
		return RuleExpression, "${{ }} is not allowed here", "set an environment variable under env"
	}
	return "", "", ""
}

func checkMatrixValue(value string) (Rule, string, string) {
	if rule, message, _ := checkNoExpression(value); message != "" {
		return rule, message, "write the values out"
	}
	return checkPrintable(value)
}

func checkPrintable(value string) (Rule, string, string) {
	for _, r := range value {
		if r < ' ' || r == 0x7f {
			return RuleValue, "control characters and line breaks are not allowed here", ""
		}
	}
	return "", "", ""
}

// checkPath accepts a path inside the checkout.
func checkPath(value string) (Rule, string, string) {
	if rule, message, hint := checkPrintable(value); message != "" {
		return rule, message, hint
	}
	const hint = "write a path relative to the repository's root"
	clean := path.Clean(value)
	switch {
	case value == "":
		return RuleValue, "the path is empty", hint
	case path.IsAbs(value):
		return RuleValue, fmt.Sprintf("%q is absolute", clip(value)), hint
	case clean == "..", strings.HasPrefix(clean, "../"):
		return RuleValue, fmt.Sprintf("%q leaves the repository", clip(value)), hint
	case strings.Contains(value, `\`):
		return RuleValue, fmt.Sprintf("%q holds a backslash", clip(value)), "separate directories by /"
	}
	return "", "", ""
}

// checkCachePath accepts a path in the checkout, in the home, or an absolute one
// in the sandbox.
func checkCachePath(value string) (Rule, string, string) {
	if rule, message, hint := checkNoExpression(value); message != "" {
		return rule, message, hint
	}
	clean := path.Clean(value)
	switch {
	case clean == "/", clean == "~", clean == ".":
		return RuleValue, fmt.Sprintf("%q cannot be cached", clip(value)), "name a directory below it"
	case path.IsAbs(clean), strings.HasPrefix(clean, "~/"):
		return checkPrintable(value)
	}
	return checkPath(value)
}

func checkImage(value string) (Rule, string, string) {
	if len(value) > 512 || !imagePattern.MatchString(value) {
		return RuleValue, fmt.Sprintf("%q is not an image reference", clip(value)), "write it like golang:1.26 or registry.example.com/team/tool@sha256:…"
	}
	return "", "", ""
}

func checkRepository(value string) (Rule, string, string) {
	if len(value) > 384 || !repositoryPattern.MatchString(value) {
		hint := "write it like registry.example.com/team/shop or shop:v1"
		if value != strings.ToLower(value) && repositoryPattern.MatchString(strings.ToLower(value)) {
			hint = "repositories are lower-case: " + strings.ToLower(value)
		}
		return RuleValue, fmt.Sprintf("%q is not an image repository", clip(value)), hint
	}
	return "", "", ""
}

var tagPattern = newPattern(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

func checkTag(value string) (Rule, string, string) {
	if !tagPattern.MatchString(value) {
		return RuleValue, fmt.Sprintf("%q is not a tag", clip(value)), "write it like v1.2 or latest, without the repository's name"
	}
	return "", "", ""
}

func checkPlatform(value string) (Rule, string, string) {
	if !platformPattern.MatchString(value) {
		return RuleValue, fmt.Sprintf("%q is not a platform", clip(value)), "write it like linux/amd64"
	}
	return "", "", ""
}

func checkGlob(value string) (Rule, string, string) {
	if rule, message, _ := checkNoExpression(value); message != "" {
		return rule, message, "filters are read before there is an event; use when on the stage"
	}
	pattern := strings.TrimPrefix(value, "!")
	switch {
	case pattern == "" || !doublestar.ValidatePattern(pattern):
		return RuleGlob, fmt.Sprintf("%q is not a pattern", clip(value)), "close every [ and {; * matches within a directory, ** across them"
	case strings.HasPrefix(pattern, "/"), strings.HasPrefix(pattern, "./"):
		return RuleGlob, fmt.Sprintf("%q never matches: names and paths do not begin that way", clip(value)),
			"write " + strings.TrimLeft(strings.TrimPrefix(pattern, "./"), "/")
	case strings.HasPrefix(pattern, "refs/heads/"), strings.HasPrefix(pattern, "refs/tags/"):
		short := strings.TrimPrefix(strings.TrimPrefix(pattern, "refs/heads/"), "refs/tags/")
		return RuleGlob, fmt.Sprintf("%q never matches: filters see short names", clip(value)), "write " + short
	}
	return "", "", ""
}

// cronParser reads the five fields and descriptors such as @daily; seconds and
// @every are not part of the language.
var cronParser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

func checkCron(value string) (Rule, string, string) {
	const hint = `write five fields, minute hour day month weekday, such as "0 3 * * *"`
	switch {
	case strings.HasPrefix(value, "TZ="), strings.HasPrefix(value, "CRON_TZ="):
		return RuleCron, "a cron expression does not hold its time zone", "set timezone beside cron"
	case strings.HasPrefix(value, "@every"):
		return RuleCron, "@every is not allowed: it would depend on when the server started", `write "*/10 * * * *" for every ten minutes`
	case len(strings.Fields(value)) == 6:
		return RuleCron, fmt.Sprintf("%q has six fields", clip(value)), hint + "; there are no seconds"
	}
	schedule, err := cronParser.Parse(value)
	if err != nil {
		return RuleCron, fmt.Sprintf("%q is not a cron expression: %s", clip(value), err), hint
	}
	// The cron package looks five years ahead; a fixed start keeps this pure.
	if schedule.Next(time.Date(2024, time.January, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return RuleCron, fmt.Sprintf("%q never comes: there is no such date", clip(value)), hint
	}
	return "", "", ""
}

func checkTimezone(value string) (Rule, string, string) {
	if value == "Local" {
		return RuleTimezone, "\"Local\" would differ from server to server", "write an IANA name such as Europe/Berlin"
	}
	if _, err := time.LoadLocation(value); err != nil {
		return RuleTimezone, fmt.Sprintf("%q is not a time zone", clip(value)), timezoneHint(value)
	}
	return "", "", ""
}

func timezoneHint(value string) string {
	common := []string{
		"UTC", "Africa/Cairo", "Africa/Johannesburg", "Africa/Lagos", "America/Chicago", "America/Denver", "America/Los_Angeles",
		"America/New_York", "America/Sao_Paulo", "America/Toronto", "Asia/Dubai", "Asia/Hong_Kong", "Asia/Kolkata",
		"Asia/Shanghai", "Asia/Singapore", "Asia/Tokyo", "Australia/Sydney", "Europe/Amsterdam", "Europe/Berlin", "Europe/Istanbul",
		"Europe/London", "Europe/Madrid", "Europe/Paris", "Europe/Rome", "Europe/Stockholm", "Europe/Vienna", "Europe/Warsaw",
		"Europe/Zurich", "Pacific/Auckland",
	}
	if near := nearest(value, common); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	for _, zone := range common {
		if strings.EqualFold(path.Base(zone), value) {
			return fmt.Sprintf("did you mean %q?", zone)
		}
	}
	return "write an IANA name such as Europe/Berlin"
}

// checkContext wants a path of the checkout, or something remote.
func checkContext(value string) (Rule, string, string) {
	if !strings.Contains(value, "://") && !strings.HasPrefix(value, "git@") {
		return checkPath(value)
	}
	if rule, message, hint := checkPrintable(value); message != "" {
		return rule, message, hint
	}
	for _, scheme := range []string{"https://", "http://", "ssh://", "git://", "docker-image://"} {
		if strings.HasPrefix(value, scheme) {
			return "", "", ""
		}
	}
	if strings.HasPrefix(value, "git@") {
		return "", "", ""
	}
	return RuleValue, fmt.Sprintf("%q is not a context", clip(value)), "write a path of the checkout, a Git or archive URL, or docker-image:// and a reference"
}

// checkVariableName wants the name of an environment variable, Tidegate's own included.
func checkVariableName(value string) (Rule, string, string) {
	if !variable.MatchString(value) {
		return RuleValue, fmt.Sprintf("%q is not the name of a variable", clip(value)), "write the name of a variable or secret of the stage"
	}
	return "", "", ""
}
