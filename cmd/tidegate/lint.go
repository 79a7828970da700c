package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tidegate-ci/tidegate/pipeline"
)

// pipelineSource is a pipeline file as the user named it.
type pipelineSource struct {
	name string
	data []byte
}

// standardInput is the argument that means the standard input.
const standardInput = "-"

// readPipelines reads the named files; a directory stands for the pipelines of
// the repository there, and no name for those of the working directory.
func readPipelines(names []string, stdin io.Reader) ([]pipelineSource, error) {
	if len(names) == 0 {
		names = []string{"."}
	}
	var sources []pipelineSource
	for _, name := range names {
		if name == standardInput {
			data, err := io.ReadAll(io.LimitReader(stdin, pipeline.MaxFileSize+1))
			if err != nil {
				return nil, fmt.Errorf("reading the pipeline from standard input: %w", err)
			}
			sources = append(sources, pipelineSource{"stdin", data})
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return nil, usageErrorf("cannot read the pipeline file: %w", err)
		}
		if !info.IsDir() {
			data, err := pipeline.ReadFile(os.DirFS(filepath.Dir(name)), filepath.Base(name))
			if err != nil {
				return nil, usageErrorf("%w", err)
			}
			sources = append(sources, pipelineSource{name, data})
			continue
		}
		found, err := readRepository(name)
		if err != nil {
			return nil, err
		}
		sources = append(sources, found...)
	}
	return sources, nil
}

func readRepository(directory string) ([]pipelineSource, error) {
	root, err := os.OpenRoot(directory)
	if err != nil {
		return nil, usageErrorf("cannot open the directory: %w", err)
	}
	defer func() { _ = root.Close() }()
	fsys := root.FS()
	files, err := pipeline.Files(fsys)
	if errors.Is(err, pipeline.ErrNoPipeline) {
		return nil, usageErrorf("%s: %w; name a file, or see \"tidegate lint --help\"", directory, err)
	}
	if err != nil {
		return nil, err
	}
	var sources []pipelineSource
	for _, file := range files {
		data, err := pipeline.ReadFile(fsys, file)
		if err != nil {
			return nil, err
		}
		sources = append(sources, pipelineSource{filepath.Join(directory, filepath.FromSlash(file)), data})
	}
	return sources, nil
}

// lintResult is what lint says about a file.
type lintResult struct {
	File     string          `json:"file"`
	Pipeline string          `json:"pipeline,omitempty"`
	Stages   int             `json:"stages,omitempty"`
	Problems pipeline.Errors `json:"problems"`
	source   []byte          // for excerpts
}

func lintSources(sources []pipelineSource) ([]lintResult, int, error) {
	results := make([]lintResult, 0, len(sources))
	problems := 0
	owner := map[string]string{}
	for _, source := range sources {
		result := lintResult{File: source.name, source: source.data, Problems: pipeline.Errors{}}
		p, err := pipeline.Parse(source.name, source.data)
		var found pipeline.Errors
		switch {
		case errors.As(err, &found):
			result.Problems = found
		case err != nil:
			return nil, 0, err
		default:
			result.Pipeline, result.Stages = p.Name, len(p.Stages)+len(p.Finally)
			if other, taken := owner[p.Name]; taken {
				result.Problems = pipeline.Errors{{
					Position: p.Pos, Rule: pipeline.RuleDuplicate, Message: fmt.Sprintf("the name %q is taken by %s", p.Name, other),
					Hint: "rename one of the pipelines",
				}}
			}
			owner[p.Name] = source.name
		}
		problems += len(result.Problems)
		results = append(results, result)
	}
	return results, problems, nil
}

func newLintCommand() *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:   "lint [FILE…]",
		Short: "Check pipeline files",
		Long: `Check pipeline files and report everything that is wrong, with file, line,
column, the reason and what to do. Without a file, .tidegate.yaml and
.tidegate/*.yaml of the working directory are checked; "-" is standard input.

Exit status: 0 when nothing is wrong, 1 when something is, 2 when a file cannot
be read.`,
		Example: `  tidegate lint
  tidegate lint ci.yaml deploy.yaml
  git show HEAD:.tidegate.yaml | tidegate lint -
  tidegate lint -o json | jq '.files[].problems[]'`,
		ValidArgsFunction: completePipelineFiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return usageErrorf("unknown output format %q: use text or json", output)
			}
			sources, err := readPipelines(args, cmd.InOrStdin())
			if err != nil {
				return err
			}
			results, problems, err := lintSources(sources)
			if err != nil {
				return err
			}
			if output == "json" {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				err = encoder.Encode(map[string]any{"files": results, "problems": problems})
			} else {
				err = printLint(cmd.OutOrStdout(), results, problems)
			}
			if err != nil {
				return fmt.Errorf("writing the report: %w", err)
			}
			if problems > 0 {
				return &exitError{code: exitFailed}
			}
			return nil
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "text", "output format: text or json")
	completeValues(command, "output", "text", "json")
	return command
}

func printLint(out io.Writer, results []lintResult, problems int) error {
	color := colored(out)
	wrong := 0
	for _, result := range results {
		if len(result.Problems) == 0 {
			if _, err := fmt.Fprintf(out, "%s: ok: pipeline %q, %s\n", result.File, result.Pipeline, count(result.Stages, "stage")); err != nil {
				return err
			}
			continue
		}
		wrong++
		if _, err := fmt.Fprintln(out, result.Problems.Render(result.source, color)); err != nil {
			return err
		}
	}
	if problems == 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "%s in %d of %s\n", count(problems, "problem"), wrong, count(len(results), "file"))
	return err
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// colored tells whether to write colours: to a terminal, unless NO_COLOR is set.
func colored(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(file.Fd()))
}

// completePipelineFiles completes pipeline files: those of the repository
// first, then YAML files.
func completePipelineFiles(_ *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if toComplete == "" && len(args) == 0 {
		if root, err := os.OpenRoot("."); err == nil {
			defer func() { _ = root.Close() }()
			if files, err := pipeline.Files(root.FS()); err == nil {
				return files, cobra.ShellCompDirectiveDefault
			}
		}
	}
	return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
}

// completeValues completes a flag that has fixed values.
func completeValues(command *cobra.Command, flag string, values ...string) {
	// The only error is a flag that does not exist.
	if err := command.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}
