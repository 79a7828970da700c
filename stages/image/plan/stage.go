package plan

import (
	"errors"
	"fmt"
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
	// env is what expansion sees: ENV and ARG in the order they appear.
	env        *environment
	cmdSet     bool
	workdirSet bool
	pos        Position
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
	w := &walker{maker: m, stage: s, env: newEnvironment(config.Config.Env), pos: pos}
	if base.Kind == FromStage {
		// Arguments go on in stages that start from this one.
		w.env = base.Stage.scope.clone()
	}
	s.scope = w.env
	if path, ok := w.env.Get("PATH"); !ok || path == "" {
		w.env.set("PATH", defaultPath)
	}
	commands := source.Commands
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
		if err := w.instruction(command); err != nil {
			return nil, m.wrap(err, w.pos)
		}
		if len(s.Steps) > before {
			step := &s.Steps[before]
			step.Pos, step.Text, step.Number, step.Of = w.pos, summary(command), n+1, len(commands)
			step.History = len(s.Config.History) - 1
		}
	}
	m.planned[i] = s
	return s, nil
}

// triggers parses the ONBUILD instructions of the base image.
func (w *walker) triggers(texts []string) ([]instructions.Command, error) {
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
	expanded, unmatched, err := w.lex().ProcessWord(word, w.env)
	for name := range unmatched {
		w.linter.Run(&linter.RuleUndefinedVar, w.ranges(), fmt.Sprintf("Usage of undefined variable '$%s'", name))
	}
	return expanded, err
}

func (w *walker) ranges() []parser.Range {
	return []parser.Range{{Start: parser.Position{Line: w.pos.Line}, End: parser.Position{Line: w.pos.EndLine}}}
}

func (w *walker) history(layer bool, text string) {
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
		err := c.ExpandRaw(func(word string) (string, error) {
			lex := shell.NewLex('\\')
			lex.SkipProcessQuotes = true
			expanded, _, err := lex.ProcessWord(word, w.env)
			return expanded, err
		})
		if err != nil {
			return err
		}
	}
	config := &w.stage.Config.Config
	switch c := command.(type) {
	case *instructions.MaintainerCommand:
		w.stage.Config.Author = c.Maintainer
		w.history(false, "MAINTAINER "+c.Maintainer)
	case *instructions.EnvCommand:
		w.setEnv(c)
	case *instructions.ArgCommand:
		return w.setArgs(c)
	case *instructions.LabelCommand:
		text := "LABEL"
		for _, pair := range c.Labels {
			if config.Labels == nil {
				config.Labels = map[string]string{}
			}
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
		check := *c.Health
		config.Healthcheck = &check
		w.history(false, fmt.Sprintf("HEALTHCHECK %+v", check))
	case *instructions.OnbuildCommand:
		config.OnBuild = append(config.OnBuild, c.Expression)
	case *instructions.CmdCommand:
		w.cmdSet = true
		config.Cmd = w.commandLine(c.ShellDependantCmdLine, c.Name())
		config.ArgsEscaped = true //nolint:staticcheck // deprecated, but Docker's own images set it
		w.history(false, fmt.Sprintf("CMD %q", config.Cmd))
	case *instructions.EntrypointCommand:
		config.Entrypoint = w.commandLine(c.ShellDependantCmdLine, c.Name())
		if !w.cmdSet {
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

func (w *walker) setEnv(c *instructions.EnvCommand) {
	text := "ENV"
	for _, pair := range c.Env {
		if pair.NoDelim {
			w.linter.Run(&linter.RuleLegacyKeyValueFormat, w.ranges(), linter.RuleLegacyKeyValueFormat.Format(c.Name()))
		}
		w.env.set(pair.Key, pair.Value)
		w.stage.Config.Config.Env = setPair(w.stage.Config.Config.Env, pair.Key, pair.Value)
		text += " " + pair.String()
	}
	w.history(false, text)
}

// setArgs brings arguments into scope: the command line's value, or the
// instruction's default, or the value of a global or automatic argument.
func (w *walker) setArgs(c *instructions.ArgCommand) error {
	var words []string
	for _, arg := range c.Args {
		value, set := w.options.Args[arg.Key]
		w.used[arg.Key] = true
		switch {
		case set:
		case arg.Value != nil:
			expanded, err := w.expand(*arg.Value)
			if err != nil {
				return err
			}
			value, set = expanded, true
		default:
			value, set = w.globals.Get(arg.Key)
		}
		word := arg.Key
		if set {
			w.env.set(arg.Key, value)
		}
		if arg.Value != nil {
			// The default is public, it stands in the file. What the command line
			// gave may not be, and history travels with the image.
			word += "=" + *arg.Value
		}
		words = append(words, word)
	}
	w.history(false, "ARG "+strings.Join(words, " "))
	return nil
}

func (w *walker) workdir(c *instructions.WorkdirCommand) {
	config := &w.stage.Config.Config
	if !w.workdirSet && !path.IsAbs(c.Path) {
		w.linter.Run(&linter.RuleWorkdirRelativePath, w.ranges(), linter.RuleWorkdirRelativePath.Format(c.Path))
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
		w.linter.Run(&linter.RuleJSONArgsRecommended, w.ranges(), linter.RuleJSONArgsRecommended.Format(instruction))
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
