package pipeline

import (
	"fmt"
	"net/url"
	"strings"
)

func checkSecretName(value string) (Rule, string, string) {
	if !variable.MatchString(value) {
		return RuleValue, "this is no name of a secret", "write the secret's name, such as SIGNING_KEY, never the secret itself"
	}
	return "", "", ""
}

func checkBuildKitAddress(value string) (Rule, string, string) {
	u, err := url.Parse(value)
	if err == nil && u.User == nil && u.RawQuery == "" && u.Fragment == "" {
		if u.Scheme == "tcp" && u.Hostname() != "" && u.Port() != "" && (u.Path == "" || u.Path == "/") {
			return "", "", ""
		}
		if u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/") {
			return "", "", ""
		}
	}
	return RuleValue, fmt.Sprintf("%q is no address of a buildkitd", clip(value)), "write it like tcp://buildkitd.example.com:1234 or unix:///run/buildkit/buildkitd.sock"
}

// notOfCommands are the keys of a build that a command of its own does not see.
var notOfCommands = []string{"context", "dockerfile", "target", "args", "platforms", "no-cache", "provenance", "sbom", "tags", "labels", "annotations", "cache"}

// checkBuild looks at what the keys of a build mean together.
func (d *decoder) checkBuild(path string) {
	with, command := path+".with", path+".with.command"
	named := d.has(with) && d.nodes[with].kind != mapNode || d.has(with+".builder")
	switch {
	case d.has(with) && named == d.has(command) && d.nodes[with].kind == mapNode:
		d.add(d.keyAt(with), RuleKind, "write with: buildkit, or with: {command: …}", "%s must name one builder", with)
	case d.has(command):
		for _, key := range notOfCommands {
			if d.has(path + "." + key) {
				d.add(d.keyAt(path+"."+key), RuleUnreachable, "remove it, and say it in the command", "%q has no effect: a command builds the image", key)
			}
		}
	case d.has(with + ".image"), d.has(with + ".network"):
		d.add(d.keyAt(with), RuleKind, "add command, or remove them", "image and network of %s belong to a command", with)
	}
	if named && !d.has(path+".buildkit") {
		d.add(d.keyAt(with), RuleRequired, "add buildkit: {address: tcp://HOST:PORT}", "with: buildkit needs the key \"buildkit\" beside it")
	}
	if d.has(path+".buildkit") && !named {
		d.add(d.keyAt(path+".buildkit"), RuleUnreachable, "add with: buildkit, or remove it", "buildkit has no effect without with: buildkit")
	}
	if d.has(path+".buildkit.cert") != d.has(path+".buildkit.key") {
		d.add(d.keyAt(path+".buildkit"), RuleRequired, "give both, or neither", "cert and key of %s.buildkit belong together", path)
	}
}
