package plan

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// HistoryComment marks the history entries a plan adds to those of the base.
const HistoryComment = "tidegate"

// walker carries a stage while its instructions are gone through.
type walker struct {
	*maker
	stage *Stage
	// scope is what expansion sees. Stages built on this one start with it.
	scope
	// lint is the linter for the instruction at hand, which stands at location.
	lint     *linter.Linter
	location []parser.Range
	pos      Position

	// mounting are the mounts so far of the RUN at hand.
	mounting []Mount
	// recorded counts the bytes of history so far.
	recorded int

	lastCmd, lastEntrypoint, lastHealthcheck once
}

// scope is what a stage hands on to those built on it, beside its image.
type scope struct {
	// env are ENV and ARG in the order they appear.
	env *environment
	// arguments are the names of ARGs, for history; declared is the same as a set.
	arguments  []string
	declared   map[string]bool
	workdirSet bool
}

func (s scope) clone() scope {
	s.env, s.arguments, s.declared = s.env.clone(), slices.Clone(s.arguments), maps.Clone(s.declared)
	return s
}

func (m *maker) stage(i int, _ []parser.Range) (*Stage, error) {
	if m.planned[i] != nil {
		return m.planned[i], nil
	}
	source := &m.stages[i]
	pos := m.position(source.Location)
	if m.busy[i] {
		return nil, m.fail(pos, "", "stage %q needs itself", source.Name)
	}
	m.busy[i] = true
	base, config, err := m.baseConfig(i, pos)
	if err != nil {
		return nil, err
	}
	s := &Stage{Index: i, Name: source.Name, Base: base, Platform: m.platforms[i], Pos: pos, Config: config}
	w := &walker{maker: m, stage: s, pos: pos, location: source.Location, lint: m.linterFor(source.Comments)}
	if base.Kind == FromStage {
		w.scope = m.scopes[base.Stage.Index].clone()
	} else {
		w.scope = scope{env: newEnvironment(config.Config.Env), declared: map[string]bool{}}
	}
	if _, ok := w.env.Get("PATH"); !ok {
		w.env.set("PATH", defaultPath)
		s.Config.Config.Env = append(s.Config.Config.Env, "PATH="+defaultPath)
	}
	if dir := s.Config.Config.WorkingDir; dir != "" {
		// An image may say anything; no ".." of its own leads anywhere.
		s.Config.Config.WorkingDir = path.Join("/", dir)
	}
	commands := source.Commands
	if m.replaced[i] {
		commands = nil
	}
	if base.Kind == FromContext {
		w.contextStage()
	}
	if triggers := config.Config.OnBuild; len(triggers) > 0 {
		s.Config.Config.OnBuild = nil
		inherited, err := w.triggers(triggers)
		if err != nil {
			return nil, err
		}
		commands = append(inherited, commands...)
	}
	for n, command := range commands {
		w.pos = m.position(command.Location())
		if w.pos.Line == 0 {
			w.pos = pos // an ONBUILD trigger stands in the base image, not in this file
		}
		before := len(s.Steps)
		w.location, w.lint = command.Location(), m.linterFor(command.Comments())
		if err := w.instruction(command); err != nil {
			return nil, m.wrap(err, w.pos)
		}
		if w.recorded > maxRecord {
			return nil, m.wrap(errRecord, w.pos)
		}
		if len(s.Steps) > before {
			step := &s.Steps[before]
			step.Pos, step.Text, step.Number, step.Of = w.pos, summary(command), n+1, len(commands)
			step.History = len(s.Config.History) - 1
		}
	}
	m.planned[i], m.scopes[i] = s, w.scope
	return s, nil
}

// contextStage puts the files of a named context where a base image would be.
func (w *walker) contextStage() {
	from := w.stage.Base
	w.stage.Base = Source{Kind: FromNothing}
	w.stage.Steps = append(w.stage.Steps, Step{
		Pos: w.pos, Text: "FROM " + from.Context, Of: len(w.stages[w.stage.Index].Commands), History: len(w.stage.Config.History),
		Copy: &Copy{From: from, Sources: []string{"."}, Dest: "/", DestIsDirectory: true},
	})
	w.history(true, "FROM "+from.Context)
}

// maxTriggers bounds the ONBUILD instructions of a base image.
const maxTriggers = 256

// triggers parses the ONBUILD instructions of the base image.
func (w *walker) triggers(texts []string) ([]instructions.Command, error) {
	if len(texts) > maxTriggers {
		return nil, w.fail(w.pos, "use another base image", "the base image has %d ONBUILD triggers, more than %d", len(texts), maxTriggers)
	}
	var commands []instructions.Command
	for _, text := range texts {
		result, err := parser.Parse(strings.NewReader(text))
		if err == nil && len(result.AST.Children) != 1 {
			err = errors.New("not a single instruction")
		}
		var command instructions.Command
		if err == nil {
			node := result.AST.Children[0]
			node.StartLine, node.EndLine = w.pos.Line, w.pos.EndLine
			command, err = instructions.ParseCommand(node)
		}
		if err != nil {
			return nil, w.fail(w.pos, "ask for the base image to be fixed, or use another", "ONBUILD trigger %q of the base image: %w", text, err)
		}
		commands = append(commands, command)
	}
	return commands, nil
}

// summary is the first line of an instruction, for progress.
func summary(command instructions.Command) string {
	text := strings.TrimSpace(fmt.Sprint(command))
	text, _, _ = strings.Cut(text, "\n")
	return text
}

func (w *walker) expand(word string) (string, error) {
	result, err := w.process(word, w.env)
	w.checkUndefined(result.Unmatched)
	return result.Result, err
}

// expandRaw leaves quotes as they are, for the files of heredocs.
func (w *walker) expandRaw(word string) (string, error) {
	if err := bounded(word, w.env); err != nil {
		return "", err
	}
	lex := shell.NewLex('\\')
	lex.SkipProcessQuotes = true
	expanded, unmatched, err := lex.ProcessWord(word, w.env)
	w.checkUndefined(unmatched)
	return expanded, err
}

func (w *walker) history(layer bool, text string) {
	w.recorded += len(text)
	w.stage.Config.History = append(w.stage.Config.History, ocispec.History{
		CreatedBy: text, Comment: HistoryComment, EmptyLayer: !layer,
	})
}

func (w *walker) instruction(command instructions.Command) error {
	if c, ok := command.(instructions.SupportsSingleWordExpansion); ok {
		// ARG is expanded with care for what the command line gives.
		if _, arg := command.(*instructions.ArgCommand); !arg {
			if err := c.Expand(w.expand); err != nil {
				return err
			}
		}
	}
	if c, ok := command.(instructions.SupportsSingleWordExpansionRaw); ok {
		if err := c.ExpandRaw(w.expandRaw); err != nil {
			return err
		}
	}
	config := &w.stage.Config.Config
	switch c := command.(type) {
	case *instructions.MaintainerCommand:
		w.stage.Config.Author = c.Maintainer
		w.history(false, "MAINTAINER "+c.Maintainer)
	case *instructions.EnvCommand:
		return w.setEnv(c)
	case *instructions.ArgCommand:
		return w.setArgs(c)
	case *instructions.LabelCommand:
		text := "LABEL"
		if config.Labels == nil {
			config.Labels = map[string]string{}
		}
		for _, pair := range c.Labels {
			w.checkDelimiter(c.Name(), pair)
			config.Labels[pair.Key] = pair.Value
			text += " " + pair.String()
		}
		w.history(false, text)
	case *instructions.WorkdirCommand:
		w.workdir(c)
	case *instructions.UserCommand:
		config.User = c.User
		w.history(false, "USER "+c.User)
	case *instructions.ExposeCommand:
		return w.expose(c)
	case *instructions.VolumeCommand:
		for _, volume := range c.Volumes {
			if strings.TrimSpace(volume) == "" {
				return errors.New("VOLUME: the path is empty")
			}
			if config.Volumes == nil {
				config.Volumes = map[string]struct{}{}
			}
			config.Volumes[volume] = struct{}{}
		}
		w.history(false, fmt.Sprintf("VOLUME %v", c.Volumes))
	case *instructions.StopSignalCommand:
		if err := checkSignal(c.Signal); err != nil {
			return err
		}
		config.StopSignal = c.Signal
		w.history(false, "STOPSIGNAL "+c.Signal)
	case *instructions.ShellCommand:
		config.Shell = c.Shell
		w.history(false, fmt.Sprintf("SHELL %v", c.Shell))
	case *instructions.HealthCheckCommand:
		w.checkOnce(c, &w.lastHealthcheck)
		check := *c.Health
		config.Healthcheck = &check
		w.history(false, fmt.Sprintf("HEALTHCHECK %+v", check))
	case *instructions.OnbuildCommand:
		config.OnBuild = append(config.OnBuild, c.Expression)
	case *instructions.CmdCommand:
		w.checkOnce(c, &w.lastCmd)
		config.Cmd = w.commandLine(c.ShellDependantCmdLine, c.Name())
		config.ArgsEscaped = true //nolint:staticcheck // deprecated, but Docker's own images set it
		w.history(false, fmt.Sprintf("CMD %q", config.Cmd))
	case *instructions.EntrypointCommand:
		w.checkOnce(c, &w.lastEntrypoint)
		config.Entrypoint = w.commandLine(c.ShellDependantCmdLine, c.Name())
		if w.lastCmd.location == nil {
			config.Cmd = nil // the base image's CMD was for its own entrypoint
		}
		w.history(false, fmt.Sprintf("ENTRYPOINT %q", config.Entrypoint))
	case *instructions.RunCommand:
		return w.run(c)
	case *instructions.CopyCommand:
		return w.copyFiles(c)
	case *instructions.AddCommand:
		return w.addFiles(c)
	default:
		return w.fail(w.pos, "", "instruction %s is not supported", strings.ToUpper(command.Name()))
	}
	return nil
}

func (w *walker) setEnv(c *instructions.EnvCommand) error {
	text := "ENV"
	for _, pair := range c.Env {
		w.checkDelimiter(c.Name(), pair)
		w.checkSecret("ENV", pair.Key)
		if len(pair.Value) > maxValue {
			return fmt.Errorf("ENV %s: %w", pair.Key, errExpansion)
		}
		w.env.set(pair.Key, pair.Value)
		w.stage.Config.Config.Env = setPair(w.stage.Config.Config.Env, pair.Key, pair.Value)
		text += " " + pair.String()
	}
	w.history(false, text)
	return nil
}

func (w *walker) checkDelimiter(instruction string, pair instructions.KeyValuePair) {
	if pair.NoDelim {
		w.lint.Run(&linter.RuleLegacyKeyValueFormat, w.location, linter.RuleLegacyKeyValueFormat.Format(instruction))
	}
}

func (w *walker) workdir(c *instructions.WorkdirCommand) {
	config := &w.stage.Config.Config
	if !w.workdirSet && !path.IsAbs(c.Path) {
		w.lint.Run(&linter.RuleWorkdirRelativePath, w.location, linter.RuleWorkdirRelativePath.Format(c.Path))
	}
	w.workdirSet = true
	config.WorkingDir = w.absolute(c.Path)
	if config.WorkingDir == "/" {
		w.history(false, "WORKDIR /")
		return
	}
	w.stage.Steps = append(w.stage.Steps, Step{Directory: &Directory{Path: config.WorkingDir, User: config.User}})
	w.history(true, "WORKDIR "+config.WorkingDir)
}

// absolute resolves a path against the working directory.
func (w *walker) absolute(p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join("/", w.stage.Config.Config.WorkingDir, p)
}

func (w *walker) commandLine(line instructions.ShellDependantCmdLine, instruction string) []string {
	if !line.PrependShell {
		return slices.Clone(line.CmdLine)
	}
	if len(w.stage.Config.Config.Shell) == 0 {
		w.lint.Run(&linter.RuleJSONArgsRecommended, w.location, linter.RuleJSONArgsRecommended.Format(instruction))
	}
	return w.withShell(line.CmdLine)
}

func (w *walker) withShell(args []string) []string {
	shell := w.stage.Config.Config.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), strings.Join(args, " "))
}
