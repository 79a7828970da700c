package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// workload is a row of the table.
type workload struct {
	name string
	// goal is Tidegate's own, 0 for none.
	goal time.Duration
	// files writes the context; base is an image with a shell.
	files func(dir, base string) error
	// fresh builds from nothing each time: no cache, another repository. Without
	// it, one build goes before those that are measured.
	fresh bool
	// change is done before each measured build; nil for nothing.
	change func(dir string, round int) error
	// noCache makes all steps anew, with the base image at hand.
	noCache bool
	// cached lets another worker leave its cache in the registry first.
	cached bool
	// latency is that of the link to the registry, one way.
	latency time.Duration
}

const second = time.Second

// workloads are the rows, in the order of the table.
var workloads = []workload{
	{name: "nothing changed", goal: 50 * time.Millisecond, files: app},
	{name: "one source file changed", goal: 250 * time.Millisecond, files: app, change: changed("src/main.txt")},
	{name: "dependency file changed", goal: 350 * time.Millisecond, files: app, change: changed("deps.txt")},
	{name: "20 RUN steps, no cache", goal: 1200 * time.Millisecond, files: runSteps, noCache: true},
	{name: "4 stages of sleep 2", goal: 2100 * time.Millisecond, files: sleepingStages, noCache: true},
	{name: "COPY 100000 files, cold", goal: 4 * second, files: manyFiles, fresh: true},
	{name: "COPY 100000 files, nothing changed", goal: 500 * time.Millisecond, files: manyFiles},
	{name: "COPY 100000 files, one changed", goal: 3 * second, files: manyFiles, change: changed("files/7/7")},
	{name: "400 MB layer, cold", goal: 3 * second, files: largeFile, fresh: true},
	{name: "400 MB layer, nothing changed", goal: 50 * time.Millisecond, files: largeFile},
	{name: "fresh worker, cache in the registry", files: app, fresh: true, cached: true},
	{name: "COPY --from of 20000 files", files: copyFrom, noCache: true},
	{name: "RUN that touches 50000 files", files: touch, noCache: true},
	{name: "40 small layers", files: smallLayers, fresh: true},
	{name: "push through 50 ms latency", files: smallLayers, fresh: true, latency: 50 * time.Millisecond},
}

func writeFile(dir, name, content string) error {
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

func changed(name string) func(string, int) error {
	return func(dir string, round int) error {
		return writeFile(dir, name, fmt.Sprintf("round %d at %s\n", round, time.Now()))
	}
}

// app is the usual shape: dependencies first, sources after them.
func app(dir, base string) error {
	all := []error{writeFile(dir, "Dockerfile", `FROM `+base+` AS build
WORKDIR /app
COPY deps.txt .
RUN mkdir -p /deps && for i in $(seq 100); do cat deps.txt > /deps/$i; done
COPY src src
RUN cat src/* > program && chmod 755 program
FROM `+base+`
COPY --from=build /app/program /usr/local/bin/program
USER nobody
ENTRYPOINT ["program"]
`), writeFile(dir, "deps.txt", "first\n")}
	for i := range 100 {
		all = append(all, writeFile(dir, fmt.Sprintf("src/%d.txt", i), strings.Repeat(fmt.Sprintf("line of file %d\n", i), 200)))
	}
	return errors.Join(all...)
}

func runSteps(dir, base string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "FROM %s\n", base)
	for i := range 20 {
		fmt.Fprintf(&b, "RUN echo %d > /step-%d\n", i, i)
	}
	return writeFile(dir, "Dockerfile", b.String())
}

func sleepingStages(dir, base string) error {
	var b strings.Builder
	for i := range 4 {
		fmt.Fprintf(&b, "FROM %s AS s%d\nRUN sleep 2 && echo %d > /out\n", base, i, i)
	}
	b.WriteString("FROM scratch\n")
	for i := range 4 {
		fmt.Fprintf(&b, "COPY --from=s%d /out /%d\n", i, i)
	}
	return writeFile(dir, "Dockerfile", b.String())
}

func manyFiles(dir, _ string) error {
	if err := writeFile(dir, "Dockerfile", "FROM scratch\nCOPY files /files\n"); err != nil {
		return err
	}
	for i := range 100000 {
		if err := writeFile(dir, fmt.Sprintf("files/%d/%d", i%1000, i), fmt.Sprintf("content of file %d\n", i)); err != nil {
			return err
		}
	}
	return nil
}

const largeSize = 400 << 20

// largeFile is made of programs of this machine, for compression takes as long
// as the content lets it.
func largeFile(dir, _ string) (err error) {
	if err := writeFile(dir, "Dockerfile", "FROM scratch\nCOPY large /large\n"); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(dir, "large"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	out := bufio.NewWriterSize(file, 1<<20)
	left := int64(largeSize)
	for round := 0; left > 0; round++ {
		before := left
		// Each round starts with other bytes, so that it is no plain repetition.
		fmt.Fprintf(out, "%d", rand.Uint64())
		err := filepath.WalkDir("/usr/lib", func(path string, entry fs.DirEntry, err error) error {
			if err != nil || left == 0 || !entry.Type().IsRegular() {
				return err
			}
			source, err := os.Open(path) //nolint:gosec // /usr/lib of this machine: material, whatever is in it
			if err != nil {
				return err
			}
			defer source.Close()
			n, err := io.Copy(out, io.LimitReader(source, left))
			left -= n
			return err
		})
		if err != nil {
			return err
		}
		if left == before {
			return errors.New("/usr/lib has no files to make a large one of")
		}
	}
	return out.Flush()
}

func copyFrom(dir, base string) error {
	return writeFile(dir, "Dockerfile", `FROM `+base+` AS build
RUN mkdir /tree && cd /tree && for d in $(seq 100); do mkdir $d; for f in $(seq 200); do echo $d $f > $d/$f; done; done
FROM scratch
COPY --from=build /tree /tree
`)
}

func touch(dir, base string) error {
	return writeFile(dir, "Dockerfile", `FROM `+base+`
RUN mkdir /tree && cd /tree && for d in $(seq 100); do mkdir $d && cd $d && touch $(seq 500) && cd ..; done
`)
}

func smallLayers(dir, _ string) error {
	var b strings.Builder
	b.WriteString("FROM scratch\n")
	for i := range 40 {
		fmt.Fprintf(&b, "COPY %d /layer/%d\n", i, i)
		if err := writeFile(dir, fmt.Sprint(i), strings.Repeat(fmt.Sprintf("file %d\n", i), 1000)); err != nil {
			return err
		}
	}
	return writeFile(dir, "Dockerfile", b.String())
}
