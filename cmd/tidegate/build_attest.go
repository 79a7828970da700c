package main

import (
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5"
	"github.com/spf13/pflag"

	"github.com/tidegate-ci/tidegate/stages/image"
	"github.com/tidegate-ci/tidegate/stages/image/attest"
	"github.com/tidegate-ci/tidegate/stages/image/policy"
)

// buildAttestFlags say what is told of the result, who signs it, and which
// images it may come from.
type buildAttestFlags struct {
	provenance, sbom, signKey, policy string
	attests                           []string
}

func (f *buildAttestFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.provenance, "provenance", "", "attach SLSA provenance: true (as mode=min), false, or mode=min|max[,builder-id=URI][,timestamps=true][,invocation-id=ID]")
	flags.Lookup("provenance").NoOptDefVal = "true"
	flags.StringVar(&f.sbom, "sbom", "", "attach an SPDX list of the image's packages: true or false")
	flags.Lookup("sbom").NoOptDefVal = "true"
	flags.StringArrayVar(&f.attests, "attest", nil, "attach an attestation, type=provenance,mode=max and such; may be repeated")
	flags.StringVar(&f.signKey, "sign-key", "", "sign what is pushed with this private key, a FILE or env://NAME; COSIGN_PASSWORD opens it")
	flags.StringVar(&f.policy, "policy", "", "file that says which images the build may use")
}

func (f *buildAttestFlags) apply(r *image.Request) error {
	if f.provenance != "" {
		if err := setProvenance(&r.Attest, "--provenance", f.provenance); err != nil {
			return err
		}
	}
	if f.sbom != "" {
		if err := setSBOM(&r.Attest, "--sbom", f.sbom); err != nil {
			return err
		}
	}
	for _, text := range f.attests {
		kind, rest, err := attestType(text)
		if err != nil {
			return err
		}
		switch kind {
		case "provenance":
			err = setProvenance(&r.Attest, "--attest", rest)
		case "sbom":
			err = setSBOM(&r.Attest, "--attest", rest)
		default:
			err = usageErrorf("--attest %s: type is %q: use provenance or sbom", text, kind)
		}
		if err != nil {
			return err
		}
	}
	if r.Attest.Provenance != "" {
		r.Attest.VCS = commitOf(r.Context)
	}
	if f.signKey != "" {
		if !r.Push {
			return usageErrorf("--sign-key: a signature lies beside the image in its registry: add --push")
		}
		key, err := loadSigningKey("--sign-key", f.signKey)
		if err != nil {
			return err
		}
		r.Sign = key
	}
	if f.policy != "" {
		p, err := policy.Load(f.policy)
		if err != nil {
			return usageErrorf("--policy: %w", err)
		}
		r.Policy = p
	}
	return nil
}

// attestType takes type=… out of the value of --attest.
func attestType(text string) (kind, rest string, err error) {
	var others []string
	for _, field := range strings.Split(text, ",") {
		if value, ok := strings.CutPrefix(field, "type="); ok {
			kind = value
			continue
		}
		others = append(others, field)
	}
	if kind == "" {
		return "", "", usageErrorf("--attest %s: want type=provenance and what goes with it", text)
	}
	if rest = strings.Join(others, ","); rest == "" {
		rest = "true"
	}
	return kind, rest, nil
}

func setProvenance(a *image.Attest, flag, text string) error {
	if on, err := strconv.ParseBool(text); err == nil {
		a.Provenance = ""
		if on {
			a.Provenance = attest.Min
		}
		return nil
	}
	fields, err := parseFields(flag, text, "mode", "builder-id", "invocation-id", "timestamps", "disabled", "version")
	if err != nil {
		return err
	}
	a.Provenance = attest.Min
	if mode, ok := fields["mode"]; ok {
		if a.Provenance = attest.Mode(mode); a.Provenance != attest.Min && a.Provenance != attest.Max {
			return usageErrorf("%s %s: mode is %q: use min or max", flag, text, mode)
		}
	}
	if version := fields["version"]; version != "" && version != "v1" {
		return usageErrorf("%s %s: SLSA %s is not written: v1 is", flag, text, version)
	}
	a.BuilderID, a.InvocationID = fields["builder-id"], fields["invocation-id"]
	if a.Timestamps, err = boolField(flag, fields, "timestamps"); err != nil {
		return err
	}
	disabled, err := boolField(flag, fields, "disabled")
	if disabled {
		a.Provenance = ""
	}
	return err
}

func setSBOM(a *image.Attest, flag, text string) error {
	if on, err := strconv.ParseBool(text); err == nil {
		a.SBOM = on
		return nil
	}
	fields, err := parseFields(flag, text, "generator", "disabled")
	if err != nil {
		return err
	}
	if generator := fields["generator"]; generator != "" {
		return usageErrorf("%s %s: other generators are not run: leave generator out to use Tidegate's own, or attach another's document with cosign attest", flag, text)
	}
	disabled, err := boolField(flag, fields, "disabled")
	a.SBOM = !disabled
	return err
}

func boolField(flag string, fields map[string]string, name string) (bool, error) {
	text, ok := fields[name]
	if !ok {
		return false, nil
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, usageErrorf("%s: %s=%s: use true or false", flag, name, text)
	}
	return value, nil
}

// commitOf reads which commit a directory is at and where its repository comes
// from. It runs no program: a repository's own settings can name some.
func commitOf(dir string) attest.VCS {
	repository, err := git.PlainOpenWithOptions(dir, &git.PlainOpenOptions{DetectDotGit: true})
	if err != nil {
		return attest.VCS{}
	}
	var found attest.VCS
	if head, err := repository.Head(); err == nil {
		found.Revision = head.Hash().String()
	}
	if remote, err := repository.Remote(git.DefaultRemoteName); err == nil && len(remote.Config().URLs) > 0 {
		found.Source = remote.Config().URLs[0]
	}
	return found
}
