package plan

import (
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

func (w *walker) run(c *instructions.RunCommand) error {
	for _, flag := range c.FlagsUsed {
		switch flag {
		case "mount", "network":
		default:
			return w.fail(w.at(w.pos, "--"+flag), "leave it out", "RUN --%s is not supported: commands always run unprivileged, without devices", flag)
		}
	}
	config := w.stage.Config.Config
	recipe := &Run{
		Env: w.env.pairs(), Dir: config.WorkingDir, User: config.User,
		HostNetwork: instructions.GetNetwork(c) == instructions.NetworkHost,
		Offline:     instructions.GetNetwork(c) == instructions.NetworkNone,
	}
	if recipe.Dir == "" {
		recipe.Dir = "/"
	}
	for _, name := range proxyArgs {
		if value, ok := w.options.Args[name]; ok {
			if _, declared := w.env.Get(name); !declared {
				recipe.Unkeyed = append(recipe.Unkeyed, name+"="+value)
			}
		}
	}
	args, err := w.script(recipe, c)
	if err != nil {
		return err
	}
	if len(args) == 0 || (len(args) == 1 && args[0] == "") {
		return errors.New("RUN: there is no command")
	}
	if c.PrependShell && recipe.Script == nil {
		args = w.withShell(args)
	}
	recipe.Args = args
	for _, mount := range instructions.GetMounts(c) {
		w.mounting = recipe.Mounts
		planned, err := w.mount(mount)
		if err != nil {
			return err
		}
		recipe.Mounts = append(recipe.Mounts, planned)
	}
	w.stage.Steps = append(w.stage.Steps, Step{Run: recipe})
	text := strings.Join(args, " ")
	if recipe.Script != nil {
		text = recipe.Script.Data
	}
	w.history(true, "RUN "+w.argumentPrefix()+text)
	return nil
}

// script gives the arguments of a RUN, heredocs worked in: a single heredoc is
// the script itself (or a program, when it starts with "#!"), others are handed
// to the shell as they stand.
func (w *walker) script(recipe *Run, c *instructions.RunCommand) ([]string, error) {
	args := slices.Clone(c.CmdLine)
	if len(c.Files) == 0 {
		return args, nil
	}
	if len(args) != 1 || !c.PrependShell {
		return nil, errors.New("RUN: a heredoc needs the shell form")
	}
	heredoc, err := parser.ParseHeredoc(args[0])
	if err != nil {
		return nil, err
	}
	if heredoc == nil {
		text := args[0]
		for _, file := range c.Files {
			text += "\n" + file.Data + file.Name
		}
		return []string{text}, nil
	}
	data := c.Files[0].Data
	if c.Files[0].Chomp {
		data = parser.ChompHeredocContent(data)
	}
	if strings.HasPrefix(data, "#!") {
		name := c.Files[0].Name
		if strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
			return nil, errors.New("RUN: a heredoc can't be named " + name)
		}
		recipe.Script = &InlineFile{Name: name, Data: data}
		return []string{path.Join(ScriptDirectory, name)}, nil
	}
	return []string{data}, nil
}

func (w *walker) mount(m *instructions.Mount) (Mount, error) {
	planned := Mount{
		Kind: MountKind(m.Type), Source: path.Join("/", m.Source), ReadOnly: m.ReadOnly, Size: m.SizeLimit,
		Required: m.Required, Mode: m.Mode,
	}
	if m.UID != nil {
		planned.UID = *m.UID
	}
	if m.GID != nil {
		planned.GID = *m.GID
	}
	fail := func(hint, format string, args ...any) error {
		return w.fail(w.at(w.pos, "--mount"), hint, format, args...)
	}
	switch m.Type {
	case instructions.MountTypeSSH:
		return w.ssh(planned, m)
	case instructions.MountTypeSecret:
		return w.secret(planned, m)
	case instructions.MountTypeTmpfs:
		planned.From = Source{Kind: FromNothing}
	case instructions.MountTypeCache:
		planned.From = Source{Kind: FromNothing}
		planned.Sharing = string(m.CacheSharing)
		if planned.Sharing == "" {
			planned.Sharing = string(instructions.MountSharingShared)
		}
		planned.CacheID = m.CacheID
		if planned.CacheID == "" {
			planned.CacheID = path.Clean(m.Target)
		}
	case instructions.MountTypeBind:
		planned.From = Source{Kind: FromContext}
	default:
		return planned, fail("", "RUN --mount=type=%s is not supported", m.Type)
	}
	if m.From != "" && m.Type != instructions.MountTypeTmpfs {
		from, err := w.planSource(w.stage.Index, m.From, w.pos)
		if err != nil {
			return planned, err
		}
		planned.From = from
	}
	if m.Target == "" {
		return planned, fail("add target=/path", "RUN --mount=type=%s has no target", m.Type)
	}
	planned.Target = w.absolute(m.Target)
	if planned.Target == "/" {
		return planned, fail("mount at a directory below it", "RUN --mount: the target can't be /")
	}
	return planned, nil
}

// sshSocket is where an agent's socket is unless the mount says otherwise.
const sshSocket = "/run/buildkit/ssh_agent."

func (w *walker) ssh(planned Mount, m *instructions.Mount) (Mount, error) {
	if m.Source != "" || m.From != "" {
		return planned, w.fail(w.at(w.pos, "--mount"), "leave it out", "RUN --mount=type=ssh takes no source and no from")
	}
	planned.Source, planned.AgentID, planned.ReadOnly = "", m.CacheID, false
	if planned.AgentID == "" {
		planned.AgentID = "default"
	}
	number := 0
	for _, mount := range w.mounting {
		if mount.Kind == MountSSH {
			number++
		}
	}
	planned.Target = sshSocket + itoa(number)
	if m.Target != "" {
		planned.Target = w.absolute(m.Target)
	}
	if planned.Mode == nil {
		mode := uint64(0o600)
		planned.Mode = &mode
	}
	return planned, nil
}

func (w *walker) secret(planned Mount, m *instructions.Mount) (Mount, error) {
	planned.SecretID = m.CacheID
	if planned.SecretID == "" {
		planned.SecretID = m.Source
	}
	if planned.SecretID == "" {
		planned.SecretID = path.Base(m.Target)
	}
	planned.Source = ""
	if m.Env != nil {
		planned.SecretEnv = *m.Env
		if planned.SecretEnv == "" {
			planned.SecretEnv = planned.SecretID
		}
	}
	switch {
	case m.Target != "":
		planned.Target = w.absolute(m.Target)
	case m.Env == nil:
		planned.Target = path.Join("/run/secrets", path.Base(planned.SecretID))
	}
	if planned.Mode == nil {
		mode := uint64(0o400)
		planned.Mode = &mode
	}
	return planned, nil
}
