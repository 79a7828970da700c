package plan

import (
	"context"
	"errors"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

// baseImages gives every image the same configuration.
type baseImages struct{ image Image }

func (b baseImages) Config(_ context.Context, reference Reference) (Image, error) {
	if strings.HasPrefix(reference.Name, "missing") {
		return Image{}, errors.New("not found")
	}
	return b.image, nil
}

func planned(t testing.TB, text string, change func(*Options)) (*Plan, error) {
	t.Helper()
	options := Options{Platform: amd64, BuildPlatform: amd64, Images: baseImages{Image{Config: emptyConfig(amd64)}}}
	if change != nil {
		change(&options)
	}
	document, err := Parse("Dockerfile", []byte(text))
	if err != nil {
		return nil, err
	}
	if _, err := document.References(options); err != nil {
		return nil, err
	}
	return document.Make(context.Background(), options)
}

func mustPlan(t testing.TB, text string, change func(*Options)) *Plan {
	t.Helper()
	p, err := planned(t, text, change)
	require.NoError(t, err)
	return p
}

func args(pairs ...string) func(*Options) {
	return func(o *Options) {
		o.Args = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			o.Args[pairs[i]] = pairs[i+1]
		}
	}
}

// Labels show what an expansion gave.
func TestArgumentsAndVariables(t *testing.T) {
	cases := []struct {
		name, text string
		options    func(*Options)
		want       string
	}{
		{"default", "FROM scratch\nARG A=1\nLABEL l=$A", nil, "1"},
		{"given", "FROM scratch\nARG A=1\nLABEL l=$A", args("A", "2"), "2"},
		{"not declared", "FROM scratch\nLABEL l=$A", args("A", "2"), ""},
		{"global is not seen", "ARG A=1\nFROM scratch\nLABEL l=$A", nil, ""},
		{"global declared again", "ARG A=1\nFROM scratch\nARG A\nLABEL l=$A", nil, "1"},
		{"global declared again with another default", "ARG A=1\nFROM scratch\nARG A=3\nLABEL l=$A", nil, "3"},
		{"global given", "ARG A=1\nFROM scratch\nARG A\nLABEL l=$A", args("A", "2"), "2"},
		{"of another stage", "FROM scratch AS x\nARG A=1\nFROM scratch\nLABEL l=$A", nil, ""},
		{"inherited from a base stage", "FROM scratch AS x\nENV A=1\nFROM x\nLABEL l=$A", nil, "1"},
		{"an argument inherited from a base stage", "FROM scratch AS x\nARG A=1\nFROM x\nLABEL l=$A", nil, "1"},
		{"ENV after ARG", "FROM scratch\nARG A=1\nENV A=2\nLABEL l=$A", nil, "2"},
		{"one ENV sees the values before it", "FROM scratch\nENV A=1\nENV A=2 B=$A\nLABEL l=$B", nil, "1"},
		{"default modifier", "FROM scratch\nLABEL l=${A:-x}", nil, "x"},
		{"alternative modifier", "FROM scratch\nENV A=1\nLABEL l=${A:+y}", nil, "y"},
		{"prefix and suffix", "FROM scratch\nENV A=foo.bar.go\nLABEL l=${A#*.}-${A%%.*}", nil, "bar.go-foo"},
		{"replacement", "FROM scratch\nENV A=aXa\nLABEL l=${A/X/-}", nil, "a-a"},
		{"escaped", "FROM scratch\nENV A=1\nLABEL l=\\$A", nil, "$A"},
		{"single quotes", "FROM scratch\nENV A=1\nLABEL l='$A'", nil, "$A"},
		{"target platform", "FROM scratch\nARG TARGETARCH\nLABEL l=$TARGETARCH", func(o *Options) { o.Platform.Architecture = "arm64" }, "arm64"},
		{"target platform undeclared", "FROM scratch\nLABEL l=$TARGETARCH", nil, ""},
		{"build platform", "FROM --platform=$BUILDPLATFORM scratch\nARG BUILDPLATFORM\nLABEL l=$BUILDPLATFORM", nil, "linux/amd64"},
		{"escape directive", "# escape=`\nFROM scratch\nENV A=1\nLABEL l=`$A", nil, "$A"},
		{"continued lines", "FROM scratch\nLABEL l=a\\\n# comment\nb", nil, "ab"},
		{"argument in an argument", "FROM scratch\nARG A=1\nARG B=${A}2\nLABEL l=$B", nil, "12"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, mustPlan(t, c.text, c.options).Target.Config.Config.Labels["l"])
		})
	}
}

func TestOnlyNeededStagesArePlanned(t *testing.T) {
	const text = `FROM scratch AS a
COPY 1 /
FROM scratch AS b
COPY --from=a / /
FROM missing AS unused
RUN x
FROM scratch AS c
RUN --mount=from=b,target=/b x
COPY --from=0 / /a
FROM b AS last
FROM c
`
	labels := func(p *Plan) string {
		var names []string
		for _, s := range p.Stages {
			names = append(names, s.Label())
		}
		return strings.Join(names, " ")
	}
	require.Equal(t, "a b c stage-5", labels(mustPlan(t, text, nil)))
	require.Equal(t, "a", labels(mustPlan(t, text, func(o *Options) { o.Target = "A" })))
	require.Equal(t, "a b", labels(mustPlan(t, text, func(o *Options) { o.Target = "1" })))
	require.Equal(t, "a b last", labels(mustPlan(t, text, func(o *Options) { o.Target = "last" })))
}

func TestReferencesAreThoseOfNeededStages(t *testing.T) {
	document, err := Parse("Dockerfile", []byte("ARG V=1\nFROM one:$V AS a\nFROM two\nCOPY --from=three / /\nRUN --mount=from=four,target=/f x\nCOPY --from=a / /\nFROM five\n"))
	require.NoError(t, err)
	references, err := document.References(Options{Platform: amd64, BuildPlatform: amd64, Target: "1"})
	require.NoError(t, err)
	var names []string
	for _, r := range references {
		names = append(names, r.Name)
	}
	require.ElementsMatch(t, []string{"one:1", "two", "three", "four"}, names)
}

func TestErrorsNamePlaceReasonAndWayOut(t *testing.T) {
	cases := []struct{ name, text, at, want string }{
		{"empty", " \n", "Dockerfile", "empty"},
		{"no FROM", "RUN x", "Dockerfile:1:1", "no build stage"},
		{"unknown instruction", "FROM scratch\nFORM x", "Dockerfile:2:1", "FORM"},
		{"unknown flag", "FROM scratch\nCOPY --form=x a b", "Dockerfile:2:1", "form"},
		{"no destination", "FROM scratch\nCOPY a", "Dockerfile:2:1", "COPY requires at least two arguments"},
		{"empty base", "FROM $X", "Dockerfile:1:6", "argument X has no value"},
		{"base not found", "FROM scratch AS a\nFROM missing", "Dockerfile:2:6", "base image missing: not found"},
		{"later stage", "FROM scratch\nCOPY --from=later / /\nFROM scratch AS later\nFROM 0", "Dockerfile:2:13", "defined only later"},
		{"security", "FROM scratch\nRUN --security=insecure x", "Dockerfile:2:5", "not supported"},
		{"COPY of a URL", "FROM scratch\nCOPY https://example.com/x /", "Dockerfile:2:6", "use ADD"},
		{"mode", "FROM scratch\nCOPY --chmod=u+q a b", "Dockerfile:2:6", "octal"},
		{"port", "FROM scratch\nEXPOSE 80/icmp", "Dockerfile:2:8", "unknown protocol"},
		{"port range", "FROM scratch\nEXPOSE 90-80", "Dockerfile:2:8", "ends before"},
		{"signal", "FROM scratch\nSTOPSIGNAL ;rm", "Dockerfile:2:1", "not a signal"},
		{"mount without target", "FROM scratch\nRUN --mount=type=cache x", "Dockerfile:2:5", "no target"},
		{"mount at the root", "FROM scratch\nRUN --mount=type=cache,target=/ x", "Dockerfile:2:5", "can't be /"},
		{"platform", "FROM --platform=windows/amd64 scratch", "Dockerfile:1:1", "windows/amd64 is not supported"},
		{"heredoc name", "FROM scratch\nCOPY <<../x /\n../x\n", "Dockerfile:2:1", "can't be named"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := planned(t, c.text, func(o *Options) {
				if c.name == "later stage" {
					o.Target = "0"
				}
			})
			var located *Error
			require.ErrorAs(t, err, &located)
			require.Equal(t, c.at, located.Pos.String())
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := planned(t, "FROM scratch AS one", func(o *Options) { o.Target = "two" })
	require.ErrorContains(t, err, `target stage "two" does not exist: it has one`)
}

func TestRunRecipes(t *testing.T) {
	run := func(t *testing.T, text string) *Run {
		p := mustPlan(t, "FROM scratch\n"+text, args("A", "given", "HTTP_PROXY", "http://p"))
		return p.Target.Steps[len(p.Target.Steps)-1].Run
	}
	require.Equal(t, []string{"/bin/sh", "-c", "echo $X"}, run(t, "RUN echo $X").Args)
	require.Equal(t, []string{"echo", "$X"}, run(t, `RUN ["echo", "$X"]`).Args)
	require.Equal(t, []string{"/bin/bash", "-c", "x"}, run(t, "SHELL [\"/bin/bash\", \"-c\"]\nRUN x").Args)
	require.Equal(t, []string{"/bin/sh", "-c", "one\ntwo\n"}, run(t, "RUN <<E\none\ntwo\nE\n").Args)
	script := run(t, "RUN <<E\n#!/bin/x\none\nE\n")
	require.Equal(t, []string{"/.heredoc/E"}, script.Args)
	require.Equal(t, "#!/bin/x\none\n", script.Script.Data)
	require.Equal(t, []string{"/bin/sh", "-c", "cat <<E > f\none\nE"}, run(t, "RUN cat <<E > f\none\nE\n").Args)
	r := run(t, "ARG A\nARG B\nENV C=3\nUSER u\nWORKDIR /w\nRUN --network=host x")
	require.Contains(t, r.Env, "A=given")
	require.Contains(t, r.Env, "C=3")
	require.NotContains(t, strings.Join(r.Env, " "), "PROXY")
	require.Equal(t, []string{"HTTP_PROXY=http://p"}, r.Unkeyed)
	require.Equal(t, "/w", r.Dir)
	require.Equal(t, "u", r.User)
	require.True(t, r.HostNetwork)
	m := run(t, "WORKDIR /w\nARG A\nRUN --mount=type=cache,target=rel/$A,sharing=locked --mount=type=secret,id=s --mount=type=secret,id=t,env=T x").Mounts
	require.Equal(t, "/w/rel/given", m[0].Target)
	require.Equal(t, "locked", m[0].Sharing)
	require.Equal(t, "/run/secrets/s", m[1].Target)
	require.Equal(t, "T", m[2].SecretEnv)
	require.Empty(t, m[2].Target)
}

func TestGivenArgumentsAreNotInHistory(t *testing.T) {
	p := mustPlan(t, "FROM scratch\nARG TOKEN=none\nRUN x", args("TOKEN", "canary"))
	for _, h := range p.Target.Config.History {
		require.NotContains(t, h.CreatedBy, "canary")
	}
}

func TestEntrypointForgetsTheBaseCommand(t *testing.T) {
	base := emptyConfig(amd64)
	base.Config.Cmd = []string{"base"}
	with := func(o *Options) { o.Images = baseImages{Image{Config: base}} }
	require.Equal(t, []string{"base"}, mustPlan(t, "FROM x", with).Target.Config.Config.Cmd)
	require.Empty(t, mustPlan(t, "FROM x\nENTRYPOINT [\"e\"]", with).Target.Config.Config.Cmd)
	require.Equal(t, []string{"c"}, mustPlan(t, "FROM x\nCMD [\"c\"]\nENTRYPOINT [\"e\"]", with).Target.Config.Config.Cmd)
}

func TestUnusedBuildArgumentsAreWarnedOf(t *testing.T) {
	p := mustPlan(t, "FROM scratch\nARG A", args("A", "1", "TYPO", "2", "http_proxy", "x"))
	require.Len(t, p.Warnings, 1)
	require.Contains(t, p.Warnings[0].Message, "TYPO")
}

func TestSyntaxIsReadAndNotRun(t *testing.T) {
	require.Equal(t, "evil.example.com/frontend:1", mustPlan(t, "# syntax=evil.example.com/frontend:1\nFROM scratch", nil).Syntax)
}

func TestModes(t *testing.T) {
	cases := []struct {
		text      string
		mode      uint32
		directory bool
		want      uint32
	}{
		{"755", 0, false, 0o755}, {"4755", 0o600, false, 0o4755}, {"u=rwX,go=rX", 0o600, false, 0o644},
		{"u=rwX,go=rX", 0o700, false, 0o755}, {"u=rwX,go=rX", 0o600, true, 0o755}, {"+x", 0o644, false, 0o755},
		{"a-w", 0o666, false, 0o444}, {"g=u", 0o640, false, 0o660}, {"u+s,o-rwx", 0o755, false, 0o4750}, {"+t", 0o777, true, 0o1777},
		{"u=rw,u+x", 0, false, 0o700}, {"go=", 0o777, false, 0o700},
	}
	for _, c := range cases {
		require.NoError(t, CheckMode(c.text))
		require.Equal(t, c.want, ApplyMode(c.text, c.mode, c.directory), c.text)
	}
	for _, text := range []string{"8", "77777", "u", "u+q", "x", ","} {
		require.Error(t, CheckMode(text), text)
	}
}

func TestPlatforms(t *testing.T) {
	for text, want := range map[string]string{
		"linux/amd64": "linux/amd64", "x86_64": "linux/amd64", "linux/aarch64": "linux/arm64", "linux/arm64/v8": "linux/arm64", "linux/arm/v7": "linux/arm/v7",
	} {
		p, err := ParsePlatform(text)
		require.NoError(t, err)
		require.Equal(t, want, FormatPlatform(p))
	}
	for _, text := range []string{"", "/", "a/b/c/d", "linux/"} {
		_, err := ParsePlatform(text)
		require.Error(t, err, text)
	}
}

func FuzzPlan(f *testing.F) {
	for _, seed := range []string{
		"FROM scratch", "FROM a AS b\nRUN x\nFROM b\nCOPY --from=b a c\n", "# escape=`\nFROM scratch\nRUN <<E\nx\nE\n",
		"ARG A=1\nFROM x:${A:-2}\nARG A\nENV B=${A%%x}\nEXPOSE $A\nVOLUME [\"/v\"]\nHEALTHCHECK CMD x\nONBUILD RUN y\n",
		"FROM scratch\nADD --chown=a:b --chmod=u=rwX a b /c\nRUN --mount=type=cache,target=/x,sharing=locked --network=none y\n",
		"FROM scratch\nCOPY <<A <<B /\na\nA\nb\nB\nSHELL [\"a\"]\nUSER $X\nSTOPSIGNAL 9\nWORKDIR ../..\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := planned(t, text, args("A", "1"))
		if err != nil {
			var located *Error
			require.ErrorAs(t, err, &located, "every failure has a place")
			return
		}
		for _, s := range p.Stages {
			for _, step := range s.Steps {
				require.Less(t, step.History, len(s.Config.History))
				require.False(t, s.Config.History[step.History].EmptyLayer)
				if step.Copy != nil {
					require.True(t, strings.HasPrefix(step.Copy.Dest, "/"))
				}
			}
		}
	})
}
