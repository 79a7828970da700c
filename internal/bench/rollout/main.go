// Command rollout measures rollouts on a real cluster against plain
// Deployments, Argo Rollouts and Flagger, in turn: how many good pods are left
// when a version fails, how long it takes to go back and forward, and what
// hundreds of rollouts cost. Run it with `make bench-rollout`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

type settings struct {
	rows, subjects       string
	rounds, pods         int
	many, idle, canaries int
	idleFor              time.Duration
	patience             time.Duration
	binary, peers, json  string
	argoQPS              int
	drive                bool
}

func main() {
	var s settings
	flag.StringVar(&s.rows, "run", "", "measure the rows whose name this regular expression matches")
	flag.StringVar(&s.subjects, "subjects", "", "measure the subjects whose name this regular expression matches")
	flag.IntVar(&s.rounds, "rounds", 3, "measured rounds of each subject, in turn; the median counts")
	flag.IntVar(&s.pods, "pods", 10, "pods of the workload in the rows that need a real kubelet")
	flag.IntVar(&s.many, "many", 300, "rollouts at once, of 2 pods each, on nodes that KWOK plays")
	flag.IntVar(&s.idle, "idle", 3000, "idle managed releases")
	flag.DurationVar(&s.idleFor, "idle-for", time.Minute, "for how long requests are counted while nothing is rolled out")
	flag.IntVar(&s.canaries, "canaries", 10, "canaries, and as many rollbacks, under steady load")
	flag.DurationVar(&s.patience, "patience", time.Minute, "how long a failing version is watched")
	flag.StringVar(&s.binary, "binary", ".bin/tidegate", "the tidegate binary")
	flag.StringVar(&s.peers, "peers", ".bin", "directory with rollouts-controller, flagger and kwok")
	flag.StringVar(&s.json, "json", "", "also write the results to this file")
	flag.IntVar(&s.argoQPS, "argo-qps", 0, "requests a second that Argo Rollouts allows itself (default its own)")
	flag.BoolVar(&s.drive, "drive", false, "be the process that drives rollouts, as standard input says, and do nothing else")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	work := measure
	if s.drive {
		work = driveAsAsked
	}
	if err := work(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "bench-rollout:", err)
		os.Exit(1)
	}
}

// row is one line of what is measured.
type row struct {
	name, what string
	measure    func(context.Context, *bench) ([]result, error)
}

var rows = []row{
	{"flap", "a version that turns ready and crashes again and again; maxUnavailable 0, deadline 20 s", flapRow},
	{"crash-2s", "a version that turns ready and crashes 2 s later, default settings", crashRow(2 * time.Second)},
	{"crash-7s", "a version that turns ready and crashes 7 s later, default settings", crashRow(7 * time.Second)},
	{"pull", "an image that cannot be pulled, default deadline", pullRow},
	{"healthy", "a healthy version, canary 20/50/80 without holds or bake", healthyRow},
	{"traffic", "requests under steady load", trafficRow},
	{"reaction", "from a change that was seen to the write that answers it", reactionRow},
	{"judge", "the count judge, peeked at every 10 s for 15 min, simulated", judgeRow},
	{"many", "rollouts of 2 pods at once: a canary of one step", manyRow},
	{"idle", "idle managed releases", idleRow},
}

func measure(ctx context.Context, s settings) (err error) {
	wanted, err := regexp.Compile(s.rows)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	b := &bench{settings: s}
	if b.who, err = regexp.Compile(s.subjects); err != nil {
		return fmt.Errorf("-subjects: %w", err)
	}
	if err := b.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var results []result
	var failed []error
	for _, r := range rows {
		if !wanted.MatchString(r.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench-rollout: %s: %s\n", r.name, r.what)
		found, err := r.measure(ctx, b)
		if err == nil && len(found) == 0 {
			err = errors.New("nobody was measured")
		}
		if err != nil {
			// A row that could not be measured fails the run, and not the other rows.
			failed = append(failed, fmt.Errorf("%s: %w", r.name, err))
			fmt.Fprintln(os.Stderr, "bench-rollout:", failed[len(failed)-1])
			if ctx.Err() != nil {
				break
			}
		}
		for i := range found {
			found[i].Row = r.name
		}
		printRow(os.Stdout, r, found, len(results) == 0)
		results = append(results, found...)
	}
	if len(results) == 0 && len(failed) == 0 {
		return fmt.Errorf("-run %s matches no row", s.rows)
	}
	if s.json != "" {
		failed = append(failed, writeJSON(s.json, results))
	}
	return errors.Join(failed...)
}
