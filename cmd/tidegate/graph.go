package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// graphEvent is the event that the flags of graph describe.
type graphEvent struct {
	kind, branch, tag, base, schedule string
	paths                             []string
	inputs                            map[string]string
}

func newGraphCommand() *cobra.Command {
	var file, output string
	var flags graphEvent
	command := &cobra.Command{
		Use:   "graph",
		Short: "Draw the stages of a pipeline",
		Long: `Draw the stages of a pipeline. With --event, the plan for such an event is
drawn: matrices expanded, conditions decided as far as the event decides them.`,
		Example: `  tidegate graph
  tidegate graph --event push --branch main
  tidegate graph --event tag --tag v1.2.0 -o mermaid
  tidegate graph --event pull_request --branch fix --base main --path web/index.html
  tidegate graph -f ci.yaml -o svg > pipeline.svg`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var names []string
			if file != "" {
				names = []string{file}
			}
			p, err := onePipeline(cmd, names)
			if err != nil {
				return err
			}
			graph := p.Graph()
			if flags.kind != "" {
				e, err := flags.event()
				if err != nil {
					return err
				}
				if ok, reason := p.On.Match(e); !ok {
					return &exitError{code: exitFailed, err: fmt.Errorf("pipeline %q does not start on this event: %s", p.Name, reason)}
				}
				plan, err := pipeline.PlanFor(p, e)
				if err != nil {
					return err
				}
				graph = plan.Graph()
			} else if flags.set() {
				return usageErrorf("--branch, --tag, --base, --path, --schedule and --input describe an event: add --event push, tag, pull_request, schedule or manual")
			}
			text, err := drawGraph(graph, output)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	f := command.Flags()
	f.StringVarP(&file, "file", "f", "", "pipeline file, directory, or - for standard input (default: the one of the working directory)")
	f.StringVarP(&output, "output", "o", "text", "output format: text, mermaid, dot, svg or json")
	f.StringVar(&flags.kind, "event", "", "draw the plan for an event: push, tag, pull_request, schedule or manual")
	f.StringVar(&flags.branch, "branch", "", "branch that is pushed, or head of the pull request")
	f.StringVar(&flags.tag, "tag", "", "tag that is pushed")
	f.StringVar(&flags.base, "base", "", "branch that the pull request asks to merge into")
	f.StringVar(&flags.schedule, "schedule", "", "cron expression that fires")
	f.StringArrayVar(&flags.paths, "path", nil, "path that changed; may be repeated (default: not known)")
	f.StringToStringVar(&flags.inputs, "input", nil, "input of a run by hand, as NAME=VALUE; may be repeated")
	completeValues(command, "output", "text", "mermaid", "dot", "svg", "json")
	completeValues(command, "event", "push", "tag", "pull_request", "schedule", "manual")
	if err := command.RegisterFlagCompletionFunc("file", completePipelineFiles); err != nil {
		panic(err)
	}
	return command
}

// onePipeline reads the one pipeline that is meant; its problems go to the
// standard error, as lint shows them.
func onePipeline(cmd *cobra.Command, names []string) (*pipeline.Pipeline, error) {
	sources, err := readPipelines(names, cmd.InOrStdin())
	if err != nil {
		return nil, err
	}
	if len(sources) > 1 {
		var files []string
		for _, source := range sources {
			files = append(files, source.name)
		}
		return nil, usageErrorf("there are several pipelines: choose one with --file: %s", strings.Join(files, ", "))
	}
	p, err := pipeline.Parse(sources[0].name, sources[0].data)
	var problems pipeline.Errors
	if errors.As(err, &problems) {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), problems.Render(sources[0].data, colored(cmd.ErrOrStderr())))
		return nil, &exitError{code: exitFailed, err: fmt.Errorf("%s: %s", sources[0].name, count(len(problems), "problem"))}
	}
	return p, err
}

func (g graphEvent) set() bool {
	return g.branch != "" || g.tag != "" || g.base != "" || g.schedule != "" || len(g.paths) > 0 || len(g.inputs) > 0
}

func (g graphEvent) event() (event.Event, error) {
	e := event.Event{
		ID: "graph", Forge: "manual", Kind: event.Kind(g.kind), Trust: event.Own, Branch: g.branch, Tag: g.tag,
		Schedule: g.schedule, ChangedPaths: g.paths, PathsKnown: len(g.paths) > 0, Inputs: g.inputs,
	}
	if g.branch != "" {
		e.Ref = "refs/heads/" + g.branch
	}
	switch e.Kind {
	case event.Push:
		if g.branch == "" {
			return e, usageErrorf("--event push needs --branch")
		}
	case event.Tag:
		if g.tag == "" {
			return e, usageErrorf("--event tag needs --tag")
		}
		e.Ref = "refs/tags/" + g.tag
	case event.PullRequest:
		if g.base == "" {
			return e, usageErrorf("--event pull_request needs --base")
		}
		e.PullRequest = &event.PullRequestInfo{Number: 1, BaseBranch: g.base, HeadBranch: g.branch}
	case event.Schedule:
		if g.schedule == "" {
			return e, usageErrorf("--event schedule needs --schedule")
		}
	case event.Manual:
	default:
		return e, usageErrorf("unknown event %q: use push, tag, pull_request, schedule or manual", g.kind)
	}
	return e, nil
}

func drawGraph(graph pipeline.Graph, output string) (string, error) {
	switch output {
	case "text":
		return graph.Text(), nil
	case "mermaid":
		return graph.Mermaid(), nil
	case "dot":
		return graph.DOT(), nil
	case "svg":
		return graph.SVG(), nil
	case "json":
		data, err := json.MarshalIndent(graph, "", "  ")
		if err != nil {
			return "", fmt.Errorf("writing the graph: %w", err)
		}
		return string(data) + "\n", nil
	}
	return "", usageErrorf("unknown output format %q: use text, mermaid, dot, svg or json", output)
}
