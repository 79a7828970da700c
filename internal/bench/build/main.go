// Command build measures Tidegate's image builder against BuildKit and Buildah,
// in turn on this machine: seconds, CPU seconds, peak memory, bytes read and
// written. Run it with `make bench-build`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/tidegate-ci/tidegate/internal/buildkitd"
)

type settings struct {
	rows, builders    string
	rounds            int
	binary, peers     string
	dir, json         string
	registryDirectory string
}

func main() {
	var s settings
	flag.StringVar(&s.rows, "run", "", "measure the rows whose name this regular expression matches")
	flag.StringVar(&s.builders, "builders", "tidegate,buildkit,buildah", "whom to measure, separated by commas")
	flag.IntVar(&s.rounds, "rounds", 3, "measured builds of each row and builder; the fastest counts")
	flag.StringVar(&s.binary, "binary", ".bin/tidegate", "the tidegate binary")
	flag.StringVar(&s.peers, "peers", ".bin", "directory with buildkitd and buildctl")
	flag.StringVar(&s.dir, "dir", "", "where contexts and caches are kept meanwhile (default a temporary directory)")
	flag.StringVar(&s.json, "json", "", "also write the results to this file")
	flag.StringVar(&s.registryDirectory, "registry", "", "serve a registry from this directory and do nothing else")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	work := measure
	if s.registryDirectory != "" {
		work = serveRegistry
	}
	if err := work(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "bench-build:", err)
		os.Exit(1)
	}
}

// result is one cell of the table.
type result struct {
	Row     string  `json:"row"`
	Builder string  `json:"builder"`
	Goal    float64 `json:"goalSeconds,omitempty"`
	Wall    float64 `json:"seconds"`
	CPU     float64 `json:"cpuSeconds"`
	Peak    int64   `json:"peakBytes"`
	Read    int64   `json:"readBytes"`
	Written int64   `json:"writtenBytes"`
	// All are the seconds of every round.
	All []float64 `json:"rounds"`
	// Error is why there is no measurement.
	Error string `json:"error,omitempty"`
}

type bench struct {
	settings
	registry *registry
	builders []builder
	dir      string
	images   int
}

func measure(ctx context.Context, s settings) (err error) {
	wanted, err := regexp.Compile(s.rows)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	b := &bench{settings: s}
	if b.dir, err = os.MkdirTemp(s.dir, "bench-build-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.registry, err = startRegistry(ctx, filepath.Join(b.dir, "registry")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.registry.stop()) }()
	if err := b.openBuilders(); err != nil {
		return err
	}
	defer func() {
		for _, builder := range b.builders {
			err = errors.Join(err, builder.close())
		}
	}()
	var results []result
	for i := range workloads {
		w := &workloads[i]
		if !wanted.MatchString(w.name) {
			continue
		}
		row, err := b.row(ctx, w)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		results = append(results, row...)
		printRow(os.Stdout, row, len(results) == len(row))
	}
	if len(results) == 0 {
		return fmt.Errorf("-run %s matches no row", s.rows)
	}
	if s.json != "" {
		return writeJSON(s.json, results)
	}
	return nil
}

func (b *bench) openBuilders() error {
	binary, err := filepath.Abs(b.binary)
	if err != nil {
		return err
	}
	peers, err := filepath.Abs(b.peers)
	if err != nil {
		return err
	}
	for _, name := range strings.Split(b.settings.builders, ",") {
		switch name {
		case "tidegate":
			b.builders = append(b.builders, &tidegate{binary, filepath.Join(b.dir, "tidegate")})
		case "buildkit":
			b.builders = append(b.builders, &buildkit{options: buildkitd.Options{Binaries: peers, Dir: b.dir, Registry: b.registry.address}})
		case "buildah":
			b.builders = append(b.builders, &buildah{filepath.Join(b.dir, "buildah")})
		default:
			return fmt.Errorf("-builders: there is no %q", name)
		}
	}
	return nil
}

// row measures all builders, one after the other, each with the same files.
func (b *bench) row(ctx context.Context, w *workload) ([]result, error) {
	files := filepath.Join(b.dir, "context")
	defer os.RemoveAll(files)
	if err := os.Mkdir(files, 0o755); err != nil {
		return nil, err
	}
	if err := w.files(files, b.registry.address+"/"+baseRepository); err != nil {
		return nil, err
	}
	address := b.registry.address
	if w.latency > 0 {
		slow, err := startLink(ctx, b.registry.address, w.latency)
		if err != nil {
			return nil, err
		}
		defer slow.stop()
		address = slow.address
	}
	var results []result
	for _, builder := range b.builders {
		r := result{Row: w.name, Builder: builder.name(), Goal: w.goal.Seconds()}
		taken, err := b.rounds(ctx, w, builder, files, address)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			r.Error = err.Error()
			fmt.Fprintf(os.Stderr, "%s, %s: %v\n", w.name, r.Builder, err)
		default:
			for _, u := range taken {
				r.All = append(r.All, u.Wall.Seconds())
			}
			best := slices.MinFunc(taken, func(a, b usage) int { return int(a.Wall - b.Wall) })
			r.Wall, r.CPU, r.Read, r.Written = best.Wall.Seconds(), best.CPU.Seconds(), best.Read, best.Written
			// Memory is judged by its worst.
			r.Peak = slices.MaxFunc(taken, func(a, b usage) int { return int(a.Peak - b.Peak) }).Peak
		}
		results = append(results, r)
		// Nobody's leftovers burden the next.
		if err := builder.close(); err != nil {
			return nil, err
		}
	}
	return results, nil
}

func (b *bench) rounds(ctx context.Context, w *workload, builder builder, files, address string) ([]usage, error) {
	o := order{Context: files, Image: b.image(address)}
	if err := builder.reset(ctx); err != nil {
		return nil, err
	}
	switch {
	case w.cached:
		o.CacheTo = b.image(address)
		if _, err := builder.build(ctx, o); err != nil {
			return nil, err
		}
		o.CacheFrom, o.CacheTo = o.CacheTo, ""
	case !w.fresh:
		if _, err := builder.build(ctx, o); err != nil {
			return nil, err
		}
	}
	o.NoCache = w.noCache
	var taken []usage
	for round := range b.settings.rounds {
		if w.fresh {
			o.Image = b.image(address)
			if err := builder.reset(ctx); err != nil {
				return nil, err
			}
		}
		if w.change != nil {
			if err := w.change(files, round); err != nil {
				return nil, err
			}
		}
		syncDisks() // what was written before would burden the next measurement
		u, err := builder.build(ctx, o)
		if err != nil {
			return nil, err
		}
		taken = append(taken, u)
	}
	return taken, nil
}

// image is a name that nothing was pushed to yet.
func (b *bench) image(address string) string {
	b.images++
	return fmt.Sprintf("%s/bench/image-%d:latest", address, b.images)
}
