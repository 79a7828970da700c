package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const goodPipeline = `version: 1
name: shop
on: {push: {branches: [main]}}
stages:
  unit: {run: make test}
  image:
    needs: unit
    when: event.branch == "main"
    build: {push: shop}
`

const wrongPipeline = `version: 1
name: shop
on: push
stages:
  unit: {rum: make test}
  image: {needs: unti, build: {push: shop}}
`

// tidegate runs the command line in a directory that holds the files.
func tidegate(t *testing.T, files map[string]string, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	directory := t.TempDir()
	for name, text := range files {
		path := filepath.Join(directory, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	t.Chdir(directory)
	var out, errs bytes.Buffer
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	err := root.Execute()
	if err != nil {
		errs.WriteString(err.Error())
	}
	return out.String(), errs.String(), exitCode(err)
}

func TestLintAcceptsAGoodFile(t *testing.T) {
	out, _, code := tidegate(t, map[string]string{".tidegate.yaml": goodPipeline}, "", "lint")
	require.Equal(t, exitSuccess, code)
	require.Equal(t, ".tidegate.yaml: ok: pipeline \"shop\", 2 stages\n", out)
}

func TestLintShowsEveryProblemOfEveryFile(t *testing.T) {
	out, _, code := tidegate(t, map[string]string{"a.yaml": wrongPipeline, "b.yaml": "version: 1\n", "c.yaml": goodPipeline}, "", "lint", "a.yaml", "b.yaml", "c.yaml")
	require.Equal(t, exitFailed, code)
	require.Contains(t, out, `a.yaml:5:10: unknown key "rum" in stages.unit [unknown-key]`)
	require.Contains(t, out, "    5 |   unit: {rum: make test}\n      |          ^\n      = did you mean \"run\"?\n")
	require.Contains(t, out, `a.yaml:6:18: stage "image" needs "unti", which does not exist [needs]`)
	require.Contains(t, out, `b.yaml:1:1: the file needs the key "stages"`)
	require.Contains(t, out, `c.yaml: ok`)
	require.Contains(t, out, "5 problems in 2 of 3 files\n")
}

func TestLintAsJSON(t *testing.T) {
	out, _, code := tidegate(t, nil, wrongPipeline, "lint", "-o", "json", "-")
	require.Equal(t, exitFailed, code)
	var report struct {
		Problems int
		Files    []struct {
			File     string
			Problems []struct {
				File, Message, Hint, Rule string
				Line, Column              int
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	require.Equal(t, 2, report.Problems)
	first := report.Files[0].Problems[0]
	require.Equal(t, "stdin", first.File)
	require.Equal(t, []int{5, 10}, []int{first.Line, first.Column})
	require.Equal(t, "unknown-key", first.Rule)
}

func TestLintRefusesTwoPipelinesOfOneName(t *testing.T) {
	out, _, code := tidegate(t, map[string]string{".tidegate/a.yaml": goodPipeline, ".tidegate/b.yaml": goodPipeline}, "", "lint")
	require.Equal(t, exitFailed, code)
	require.Contains(t, out, `the name "shop" is taken by .tidegate/a.yaml`)
}

func TestLintWithoutFile(t *testing.T) {
	_, errs, code := tidegate(t, nil, "", "lint")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "there is neither .tidegate.yaml nor .tidegate/*.yaml")
	_, errs, code = tidegate(t, nil, "", "lint", "missing.yaml")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "missing.yaml")
	_, _, code = tidegate(t, nil, "", "lint", "-o", "xml")
	require.Equal(t, exitUsage, code)
}

func TestGraphDrawsPipelineAndPlan(t *testing.T) {
	files := map[string]string{".tidegate.yaml": goodPipeline}
	out, _, code := tidegate(t, files, "", "graph")
	require.Equal(t, exitSuccess, code)
	require.Contains(t, out, `after unit  when event.branch == "main"`)
	out, _, code = tidegate(t, files, "", "graph", "--event", "push", "--branch", "main", "-o", "mermaid")
	require.Equal(t, exitSuccess, code)
	require.Contains(t, out, "flowchart LR\n")
	out, _, code = tidegate(t, files, "", "graph", "-o", "json")
	require.Equal(t, exitSuccess, code)
	require.True(t, json.Valid([]byte(out)))
	for _, format := range []string{"dot", "svg", "text"} {
		_, _, code = tidegate(t, files, "", "graph", "-o", format)
		require.Equal(t, exitSuccess, code)
	}
}

func TestGraphSaysWhatIsWrong(t *testing.T) {
	files := map[string]string{".tidegate.yaml": goodPipeline, "wrong.yaml": wrongPipeline}
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--event", "push", "--branch", "dev"}, exitFailed, "matches none of branches"},
		{[]string{"--event", "push"}, exitUsage, "needs --branch"},
		{[]string{"--event", "tag"}, exitUsage, "needs --tag"},
		{[]string{"--event", "pull_request"}, exitUsage, "needs --base"},
		{[]string{"--event", "nothing"}, exitUsage, "unknown event"},
		{[]string{"--branch", "dev"}, exitUsage, "add --event"},
		{[]string{"-o", "pdf"}, exitUsage, "unknown output format"},
		{[]string{"-f", "wrong.yaml"}, exitFailed, "wrong.yaml: 2 problems"},
	} {
		_, errs, code := tidegate(t, files, "", append([]string{"graph"}, test.args...)...)
		require.Equal(t, test.code, code, test.args)
		require.Contains(t, errs, test.want)
	}
	_, errs, code := tidegate(t, map[string]string{".tidegate/a.yaml": goodPipeline, ".tidegate/b.yaml": wrongPipeline}, "", "graph")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "choose one with --file: .tidegate/a.yaml, .tidegate/b.yaml")
}

func TestSchemaIsJSON(t *testing.T) {
	out, _, code := tidegate(t, nil, "", "schema")
	require.Equal(t, exitSuccess, code)
	require.True(t, json.Valid([]byte(out)))
}
