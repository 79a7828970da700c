package pipeline

import (
	"fmt"
	"strings"
	"testing"
)

// twentyStages is a file of the size that a large service has.
func twentyStages() []byte {
	var out strings.Builder
	out.WriteString("version: 1\nname: big\non: {push: {branches: [main]}}\nconcurrency: {group: \"${{ ref }}\"}\nstages:\n")
	for i := range 20 {
		fmt.Fprintf(&out, "  s%d:\n    run: make test\n    image: golang:1.26\n    when: event.branch == \"main\" && changed(\"s%d/**\")\n", i, i)
		fmt.Fprintf(&out, "    env: {BRANCH: \"${{ event.branch }}\", N: \"${{ string(%d) }}\"}\n    timeout: 10m\n", i)
		if i > 0 {
			fmt.Fprintf(&out, "    needs: [s%d]\n", i-1)
		}
	}
	return []byte(out.String())
}

func forgetCompiled() {
	compiled.Lock()
	clear(compiled.byText)
	compiled.Unlock()
}

func BenchmarkParseAndPlan(b *testing.B) {
	data := twentyStages()
	run := func(b *testing.B, before func()) {
		for b.Loop() {
			before()
			p, err := Parse("ci.yaml", data)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := PlanFor(p, push("main")); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("first-sight", func(b *testing.B) { run(b, forgetCompiled) })
	b.Run("known-expressions", func(b *testing.B) { run(b, func() {}) })
}

func BenchmarkEvaluateWhen(b *testing.B) {
	stage, plan := diamond(`always() && stages.left.status == "succeeded"`, false)
	states := ended("succeeded", "succeeded", "succeeded")
	for b.Loop() {
		if _, err := EvaluateWhen(stage, plan, states); err != nil {
			b.Fatal(err)
		}
	}
}
