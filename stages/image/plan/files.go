package plan

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
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
		if isURL(source) || isGit(source) {
			return w.fail(w.at(w.pos, source), "use ADD", "COPY %s: the source can't be a URL", source)
		}
	}
	recipe := &Copy{
		From: from, Chown: c.Chown, Chmod: c.Chmod, Exclude: c.ExcludePatterns, Parents: c.Parents,
	}
	return w.files("COPY", recipe, c.SourcesAndDest, c.From)
}

func (w *walker) addFiles(c *instructions.AddCommand) error {
	for _, source := range c.SourcePaths {
		switch {
		case isGit(source):
			return w.fail(w.at(w.pos, source), "clone it in a RUN with --network=host, or check it out before the build", "ADD %s: Git sources are not supported yet", source)
		case isURL(source):
			return w.fail(w.at(w.pos, source), "fetch it in a RUN with --network=host, or before the build, and check its digest", "ADD %s: URLs are not supported yet", source)
		}
	}
	if c.Checksum != "" {
		return w.fail(w.at(w.pos, "--checksum"), "leave it out", "ADD --checksum is for URLs and Git sources only")
	}
	recipe := &Copy{
		From: Source{Kind: FromContext}, Chown: c.Chown, Chmod: c.Chmod, Exclude: c.ExcludePatterns,
		Unpack: c.Unpack == nil || *c.Unpack,
	}
	return w.files("ADD", recipe, c.SourcesAndDest, "")
}

// files finishes a COPY or ADD. --link asks for nothing here: layers never
// depend on more of the lower ones than the directories they go into.
func (w *walker) files(instruction string, recipe *Copy, params instructions.SourcesAndDest, from string) error {
	if err := CheckMode(recipe.Chmod); err != nil {
		return w.fail(w.at(w.pos, "--chmod"), "", "%s --chmod=%s: %w", instruction, recipe.Chmod, err)
	}
	recipe.Sources = params.SourcePaths
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
		len(recipe.Sources)+len(recipe.Inline) > 1 || recipe.Parents
	text := instruction
	if from != "" {
		text += " --from=" + from
	}
	if recipe.Parents {
		text += " --parents"
	}
	if recipe.Chown != "" {
		text += " --chown=" + recipe.Chown
	}
	if recipe.Chmod != "" {
		text += " --chmod=" + recipe.Chmod
	}
	for _, source := range recipe.Sources {
		text += " " + source
	}
	for _, file := range recipe.Inline {
		text += " <<" + file.Name
	}
	w.stage.Steps = append(w.stage.Steps, Step{Copy: recipe})
	w.history(true, text+" "+params.DestPath)
	return nil
}

func isURL(source string) bool {
	return strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://")
}

func isGit(source string) bool {
	for _, prefix := range []string{"git://", "ssh://", "git@"} {
		if strings.HasPrefix(source, prefix) {
			return true
		}
	}
	name, _, _ := strings.Cut(source, "#")
	return isURL(source) && strings.HasSuffix(name, ".git")
}
