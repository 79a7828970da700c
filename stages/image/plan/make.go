package plan

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// Scratch is the name of the empty base.
const Scratch = "scratch"

// defaultPath is what commands get when the base image sets no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// proxyArgs are arguments every RUN sees without an ARG, and that never count
// in a cache key.
var proxyArgs = []string{
	"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy",
	"NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy",
}

// Reference is an image a Dockerfile names.
type Reference struct {
	Name     string
	Platform ocispec.Platform
	// Context is the named context that gives the image from an OCI layout;
	// empty for an image of a registry.
	Context string
}

// Key tells references apart.
func (r Reference) Key() string {
	return r.Name + " " + FormatPlatform(r.Platform) + " " + r.Context
}

// maker holds one run of Make.
type maker struct {
	*Document
	ctx     context.Context
	options Options
	// globals are the automatic arguments and those before the first FROM.
	globals *environment
	// automatic are the platform arguments alone.
	automatic *environment
	bases     []Source
	platforms []ocispec.Platform
	// replaced marks stages that a named context stands for.
	replaced []bool
	planned  []*Stage
	scopes   []scope
	// busy marks stages being planned, to find a cycle.
	busy []bool
	used map[string]bool
}

// Make plans the target.
func (d *Document) Make(ctx context.Context, options Options) (*Plan, error) {
	m, target, err := d.prepare(ctx, options)
	if err != nil {
		return nil, err
	}
	result, err := m.stage(target, m.stages[target].Location)
	if err != nil {
		return nil, err
	}
	p := &Plan{Target: result, Syntax: m.Syntax}
	for _, s := range m.planned {
		if s != nil {
			p.Stages = append(p.Stages, s)
		}
	}
	m.warnUnusedArgs()
	p.Warnings = m.sortedWarnings()
	if found := findings(p.Warnings); m.linter.ReturnAsError && len(found) > 0 {
		return nil, &Error{Pos: found[0].Pos, Err: &FindingsError{found}}
	}
	return p, nil
}

// Check plans for the findings of the build checks alone: every stage if there
// is no Target, and findings are not an error. What was found before an error
// comes with it.
func (d *Document) Check(ctx context.Context, options Options) ([]Warning, error) {
	m, target, err := d.prepare(ctx, options)
	if m == nil {
		return nil, err
	}
	for i := range m.stages {
		if err == nil && (options.Target == "" || i == target) {
			_, err = m.stage(i, m.stages[i].Location)
		}
	}
	return findings(m.sortedWarnings()), err
}

func (m *maker) sortedWarnings() []Warning {
	sort.SliceStable(m.warnings, func(i, j int) bool { return m.warnings[i].Pos.Line < m.warnings[j].Pos.Line })
	return m.warnings
}

// References lists the images that Make will ask for as far as the Dockerfile
// alone tells, so that they can be resolved at once. ONBUILD may add others.
func (d *Document) References(options Options) ([]Reference, error) {
	m, target, err := d.prepare(context.Background(), options)
	if err != nil {
		return nil, err
	}
	var references []Reference
	seen := map[string]bool{}
	visited := make([]bool, len(m.stages))
	var visit func(i int)
	add := func(s Source) {
		switch s.Kind {
		case FromStage:
			visit(s.Stage.Index)
		case FromImage:
			reference := s.ImageReference()
			if !seen[reference.Key()] {
				seen[reference.Key()] = true
				references = append(references, reference)
			}
		}
	}
	visit = func(i int) {
		if visited[i] {
			return
		}
		visited[i] = true
		add(m.bases[i])
		if m.replaced[i] {
			return
		}
		for _, command := range m.stages[i].Commands {
			switch c := command.(type) {
			case *instructions.CopyCommand:
				if c.From != "" {
					add(m.source(i, c.From))
				}
			case *instructions.RunCommand:
				for _, mount := range instructions.GetMounts(c) {
					if mount.From != "" {
						add(m.source(i, mount.From))
					}
				}
			}
		}
	}
	visit(target)
	return references, nil
}

// prepare evaluates what stands outside stages and links the stages' bases.
func (d *Document) prepare(ctx context.Context, options Options) (*maker, int, error) {
	// Expansion happens in place, so every plan starts from a fresh parse.
	fresh, err := parse(d.Name, d.data, options.Args[CheckArgument])
	if err != nil {
		return nil, 0, err
	}
	m := &maker{
		Document: fresh, ctx: ctx, options: options, used: map[string]bool{},
		planned: make([]*Stage, len(fresh.stages)), scopes: make([]scope, len(fresh.stages)), busy: make([]bool, len(fresh.stages)),
		automatic: newEnvironment(nil),
	}
	targetName := options.Target
	if targetName == "" {
		targetName = fresh.stages[len(fresh.stages)-1].Name
	}
	for _, pair := range platformArgs(options.BuildPlatform, options.Platform, targetName) {
		value, given := options.Args[pair[0]]
		if given {
			m.used[pair[0]] = true
		} else {
			value = pair[1]
		}
		m.automatic.setArgument(pair[0], value, given)
	}
	m.checkDefaults()
	m.globals = m.automatic.clone()
	if err := m.globalArgs(); err != nil {
		return m, 0, err
	}
	if err := m.linkBases(); err != nil {
		return m, 0, err
	}
	target, err := m.target()
	return m, target, err
}

func (m *maker) globalArgs() error {
	for i := range m.global {
		command := &m.global[i]
		pos := m.position(command.Location())
		for _, arg := range command.Args {
			if given, ok := m.options.Args[arg.Key]; ok {
				m.globals.setArgument(arg.Key, given, true)
				m.used[arg.Key] = true
				continue
			}
			if arg.Value == nil {
				continue
			}
			result, err := m.process(*arg.Value, m.globals)
			if err != nil {
				return m.wrap(err, pos)
			}
			if len(result.Result) > maxValue {
				return m.wrap(errExpansion, pos)
			}
			m.globals.setArgument(arg.Key, result.Result, m.globals.anyPrivate(result.Matched))
		}
	}
	return nil
}

func (m *maker) linkBases() error {
	m.bases = make([]Source, len(m.stages))
	m.platforms = make([]ocispec.Platform, len(m.stages))
	m.replaced = make([]bool, len(m.stages))
	for i := range m.stages {
		stage := &m.stages[i]
		pos := m.position(stage.Location)
		named, err := m.process(stage.BaseName, m.globals)
		if err != nil {
			return m.wrap(err, pos)
		}
		base, unmatched := named.Result, named.Unmatched
		m.checkBaseWord(stage, unmatched)
		if base == "" {
			hint := "declare it with ARG before the first FROM and give it a default, or pass --build-arg"
			for name := range unmatched {
				return m.fail(m.at(pos, stage.BaseName), hint, "FROM %s: argument %s has no value", stage.BaseName, name)
			}
			return m.fail(m.at(pos, stage.BaseName), hint, "FROM %s: the base image's name is empty", stage.BaseName)
		}
		m.platforms[i] = m.options.Platform
		if stage.Platform != "" {
			result, err := m.process(stage.Platform, m.globals)
			if err != nil {
				return m.wrap(err, pos)
			}
			m.checkBaseWord(stage, result.Unmatched)
			m.checkPlatform(stage, result)
			text := result.Result
			if text == "" {
				return m.fail(m.at(pos, stage.Platform), "", "FROM --platform=%s: the platform is empty", stage.Platform)
			}
			if m.platforms[i], err = ParsePlatform(text); err != nil {
				return m.wrap(err, m.at(pos, stage.Platform))
			}
		}
		if m.platforms[i].OS != "linux" {
			return m.fail(pos, "build for linux", "platform %s is not supported", FormatPlatform(m.platforms[i]))
		}
		if context, ok := m.namedContext(i, stage.Name); ok && stage.Name != "" {
			m.bases[i], m.replaced[i] = context, true
			continue
		}
		m.bases[i] = m.source(i, base)
		if m.bases[i].Kind == FromStage && stage.Platform == "" {
			m.platforms[i] = m.platforms[m.bases[i].Stage.Index]
		}
	}
	return nil
}

// source finds what name means within stage i: an earlier stage by name or
// index, or else an image. A FromStage source carries only the stage's index
// until the stage is planned.
func (m *maker) source(i int, name string) Source {
	if name == Scratch {
		return Source{Kind: FromNothing}
	}
	if n, ok := instructions.HasStage(m.stages[:i], name); ok {
		return Source{Kind: FromStage, Stage: &Stage{Index: n}}
	}
	if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < i {
		return Source{Kind: FromStage, Stage: &Stage{Index: n}}
	}
	if context, ok := m.namedContext(i, name); ok {
		return context
	}
	return Source{Kind: FromImage, Reference: name, Platform: m.platforms[i]}
}

func (m *maker) target() (int, error) {
	name := m.options.Target
	if name == "" {
		return len(m.stages) - 1, nil
	}
	if n, ok := instructions.HasStage(m.stages, name); ok {
		return n, nil
	}
	if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < len(m.stages) {
		return n, nil
	}
	known := m.StageNames()
	hint := "the file names no stage; add AS " + name + " to a FROM"
	if len(known) > 0 {
		hint = "it has " + strings.Join(known, ", ")
	}
	return 0, &Error{Pos: Position{File: m.Name}, Err: fmt.Errorf("target stage %q does not exist", name), Hint: hint}
}

// planSource plans the stage behind a source, if there is one.
func (m *maker) planSource(i int, name string, pos Position) (Source, error) {
	s := m.source(i, name)
	if s.Kind == FromImage {
		// A later stage or the stage itself is a mistake, not an image.
		if n, ok := instructions.HasStage(m.stages, name); ok && n >= i {
			return s, m.fail(m.at(pos, name), "move that stage up", "stage %q is defined only later: a stage can use only stages above it", name)
		}
		return s, nil
	}
	if s.Kind == FromStage {
		var err error
		s.Stage, err = m.stage(s.Stage.Index, nil)
		return s, err
	}
	return s, nil
}

// emptyConfig is the configuration of FROM scratch.
func emptyConfig(platform ocispec.Platform) dockerspec.DockerOCIImage {
	var config dockerspec.DockerOCIImage
	config.Platform = platform
	config.Config.Env = []string{"PATH=" + defaultPath}
	config.Config.WorkingDir = "/"
	return config
}

func (m *maker) baseConfig(i int, pos Position) (Source, dockerspec.DockerOCIImage, error) {
	base := m.bases[i]
	switch base.Kind {
	case FromNothing, FromContext:
		return base, emptyConfig(m.platforms[i]), nil
	case FromStage:
		stage, err := m.stage(base.Stage.Index, nil)
		if err != nil {
			return base, dockerspec.DockerOCIImage{}, err
		}
		base.Stage = stage
		return base, cloneConfig(stage.Config), nil
	}
	base.Platform = m.platforms[i]
	image, err := m.options.Images.Config(m.ctx, base.ImageReference())
	if err == nil {
		err = checkBaseConfig(&image.Config)
	}
	if err != nil {
		pos = m.at(pos, m.stages[i].BaseName)
		return base, dockerspec.DockerOCIImage{}, &Error{Pos: pos, Err: fmt.Errorf("base image %s: %w", base.Reference, err), Excerpt: m.Excerpt(pos)}
	}
	config := cloneConfig(image.Config)
	if config.OS == "" {
		config.Platform = base.Platform
	} else if !m.replaced[i] {
		m.checkBasePlatform(&m.stages[i], base, image)
	}
	return base, config, nil
}

// cloneConfig copies all that planning may change, so that stages with a common
// base do not share it. Fields that describe the base's own making are dropped.
func cloneConfig(c dockerspec.DockerOCIImage) dockerspec.DockerOCIImage {
	c.Created = nil
	c.RootFS = ocispec.RootFS{}
	c.History = slices.Clone(c.History)
	c.Config.Env = slices.Clone(c.Config.Env)
	c.Config.Cmd = slices.Clone(c.Config.Cmd)
	c.Config.Entrypoint = slices.Clone(c.Config.Entrypoint)
	c.Config.OnBuild = slices.Clone(c.Config.OnBuild)
	c.Config.Shell = slices.Clone(c.Config.Shell)
	c.Config.ExposedPorts = cloneMap(c.Config.ExposedPorts)
	c.Config.Volumes = cloneMap(c.Config.Volumes)
	c.Config.Labels = cloneMap(c.Config.Labels)
	if c.Config.Healthcheck != nil {
		check := *c.Config.Healthcheck
		check.Test = slices.Clone(check.Test)
		c.Config.Healthcheck = &check
	}
	return c
}

func cloneMap[V any](m map[string]V) map[string]V {
	if m == nil {
		return nil
	}
	c := make(map[string]V, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

func (m *maker) warnUnusedArgs() {
	var unused []string
	for name := range m.options.Args {
		if !m.used[name] && !slices.Contains(proxyArgs, name) && !strings.HasPrefix(name, "BUILDKIT_") && name != "SOURCE_DATE_EPOCH" {
			unused = append(unused, name)
		}
	}
	if len(unused) > 0 {
		slices.Sort(unused)
		m.warnings = append(m.warnings, Warning{
			Pos:     Position{File: m.Name},
			Message: "build arguments that no ARG of the built stages takes: " + strings.Join(unused, ", "),
		})
	}
}
