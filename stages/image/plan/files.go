package plan

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"

	"github.com/tidegate-ci/tidegate/stages/image/remote"
)

func (w *walker) copyFiles(c *instructions.CopyCommand) error {
	from := Source{Kind: FromContext}
	if c.From != "" {
		var err error
		if from, err = w.planSource(w.stage.Index, c.From, w.pos); err != nil {
			return err
		}
	}
	for _, source := range c.SourcePaths {
		if _, git, _ := remote.ParseGit(source); git || remote.IsHTTP(source) {
			return w.fail(w.at(w.pos, source), "use ADD", "COPY %s: the source can't be a URL", source)
		}
	}
	if from.Kind == FromContext && from.Context == "" {
		w.checkIgnored("Copy", c.SourcePaths)
	}
	recipe := &Copy{
		From: from, Chown: c.Chown, Chmod: c.Chmod, Exclude: c.ExcludePatterns, Parents: c.Parents, Link: c.Link && c.Chmod == "",
	}
	recipe.Sources = c.SourcePaths
	return w.files("COPY", recipe, c.SourcesAndDest)
}

func (w *walker) addFiles(c *instructions.AddCommand) error {
	recipe := &Copy{
		From: Source{Kind: FromContext}, Chown: c.Chown, Chmod: c.Chmod, Exclude: c.ExcludePatterns, Link: c.Link && c.Chmod == "",
		Unpack: c.Unpack == nil || *c.Unpack,
	}
	for _, source := range c.SourcePaths {
		git, isGit, err := remote.ParseGit(source)
		switch {
		case isGit && err != nil:
			return w.fail(w.at(w.pos, source), "", "ADD %s: %w", remote.Redacted(source), err)
		case isGit:
			keep := c.KeepGitDir
			if keep != nil && git.KeepGitDir != nil && *keep != *git.KeepGitDir {
				return w.fail(w.at(w.pos, "--keep-git-dir"), "say it once", "ADD: --keep-git-dir and the URL's keep-git-dir differ")
			}
			if c.Checksum != "" && git.Commit != "" && c.Checksum != git.Commit {
				return w.fail(w.at(w.pos, "--checksum"), "say it once", "ADD: --checksum and the URL's checksum differ")
			}
			recipe.Remotes = append(recipe.Remotes, Remote{Location: source, Git: true, Checksum: c.Checksum, KeepGitDir: keep})
		case remote.IsHTTP(source):
			recipe.Remotes = append(recipe.Remotes, Remote{Location: source, Checksum: c.Checksum, Unpack: c.Unpack != nil && *c.Unpack})
		default:
			recipe.Sources = append(recipe.Sources, source)
		}
	}
	w.checkIgnored("Add", recipe.Sources)
	if c.Checksum != "" && (len(recipe.Remotes) != 1 || len(c.SourcePaths) != 1 || len(c.SourceContents) > 0) {
		return w.fail(w.at(w.pos, "--checksum"), "give it exactly one URL or Git source", "ADD --checksum is for one source that is a URL or a Git repository")
	}
	if c.Checksum != "" && !recipe.Remotes[0].Git {
		if _, err := digest.Parse(c.Checksum); err != nil {
			return w.fail(w.at(w.pos, "--checksum"), "write sha256: and 64 hexadecimal digits", "ADD --checksum=%s: %w", c.Checksum, err)
		}
	}
	return w.files("ADD", recipe, c.SourcesAndDest)
}

// files finishes a COPY or ADD.
func (w *walker) files(instruction string, recipe *Copy, params instructions.SourcesAndDest) error {
	if err := CheckMode(recipe.Chmod); err != nil {
		return w.fail(w.at(w.pos, "--chmod"), "", "%s --chmod=%s: %w", instruction, recipe.Chmod, err)
	}
	for _, content := range params.SourceContents {
		if strings.ContainsAny(content.Path, "/\x00") || content.Path == "" || content.Path == "." || content.Path == ".." {
			return fmt.Errorf("%s: a heredoc can't be named %q", instruction, content.Path)
		}
		recipe.Inline = append(recipe.Inline, InlineFile{Name: content.Path, Data: content.Data})
	}
	if params.DestPath == "" {
		return errors.New(instruction + ": the destination is empty")
	}
	recipe.Dest = w.absolute(params.DestPath)
	last := path.Base(params.DestPath)
	recipe.DestIsDirectory = strings.HasSuffix(params.DestPath, "/") || last == "." || last == ".." ||
		len(params.SourcePaths)+len(recipe.Inline) > 1 || recipe.Parents
	text := instruction
	if recipe.Parents {
		text += " --parents"
	}
	if recipe.Chown != "" {
		text += " --chown=" + recipe.Chown
	}
	if recipe.Chmod != "" {
		text += " --chmod=" + recipe.Chmod
	}
	for _, source := range params.SourcePaths {
		text += " " + remote.WithoutPassword(source)
	}
	for _, file := range recipe.Inline {
		text += " <<" + file.Name
	}
	w.stage.Steps = append(w.stage.Steps, Step{Copy: recipe})
	w.history(true, text+" "+params.DestPath)
	return nil
}
