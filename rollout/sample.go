package rollout

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/rollout/analysis"
)

// sampler looks at the metrics of one canary step, each gate at its own
// interval, until it is stopped. What it saw is collected by the driver: the
// sampler itself decides and writes nothing.
type sampler struct {
	revision, step int
	stop           func() // ends all looks and waits for them

	mu       sync.Mutex
	canary   []string // names of pods
	baseline []string
	seen     []sampled
}

// sample keeps a sampler going while the current state asks for one.
func (d *driver) sample(ctx context.Context, obs Observation) {
	r := d.record.Current
	wanted := r.State.measured() && !r.StepReadyAt.IsZero() && len(r.Strategy.Metrics) > 0
	if s := d.sampler; s != nil && (!wanted || s.revision != r.Revision || s.step != r.Step) {
		s.stop()
		d.sampler = nil
	}
	if !wanted {
		return
	}
	if d.sampler == nil {
		d.sampler = d.newSampler(ctx, r)
	}
	d.sampler.look(obs)
}

// look tells the sampler which pods serve now.
func (s *sampler) look(obs Observation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.canary, s.baseline = nil, nil
	for _, w := range obs.Workloads {
		s.canary = append(s.canary, w.New...)
	}
	for _, c := range obs.Canaries {
		if c.Track == BaselineTrack {
			s.baseline = append(s.baseline, c.Serving...)
			continue
		}
		s.canary = append(s.canary, c.Serving...)
		if c.Track == PreviewTrack {
			for _, pod := range c.Dark { // the preview Service reaches these
				s.canary = append(s.canary, pod.Name)
			}
		}
	}
}

// collect moves what was seen into the record and tells whether there was any.
func (d *driver) collect() bool {
	if d.sampler == nil {
		return false
	}
	d.sampler.mu.Lock()
	seen := d.sampler.seen
	d.sampler.seen = nil
	d.sampler.mu.Unlock()
	for _, s := range seen {
		d.record.Current.add(s)
	}
	return len(seen) > 0
}

func (d *driver) newSampler(ctx context.Context, r *Rollout) *sampler {
	ctx, cancel := context.WithCancel(ctx)
	s := &sampler{revision: r.Revision, step: r.Step}
	var looks sync.WaitGroup
	for _, gate := range r.Strategy.Metrics {
		looks.Go(func() {
			ticker := time.NewTicker(gate.Interval)
			defer ticker.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
				seen := d.ask(ctx, s, &gate)
				if ctx.Err() != nil {
					return
				}
				s.mu.Lock()
				s.seen = append(s.seen, seen)
				s.mu.Unlock()
				d.watch.notify()
			}
		})
	}
	s.stop = func() {
		cancel()
		looks.Wait()
	}
	return s
}

// ask takes one look. What cannot be had is left out of the sample, with the
// reason; that is never taken for zero.
func (d *driver) ask(ctx context.Context, s *sampler, gate *MetricGate) sampled {
	ctx, cancel := context.WithTimeout(ctx, analysis.QueryTimeout)
	defer cancel()
	s.mu.Lock()
	canary, baseline := s.canary, s.baseline
	s.mu.Unlock()
	result := sampled{step: s.step, gate: gate.Name, sample: analysis.Sample{At: d.clock()}}
	keys, err := d.credentialsOf(ctx, gate)
	if err != nil {
		result.trouble = err.Error()
		return result
	}
	target := Target{App: d.app, Namespace: d.namespace}
	query := func(text string, pods []string) (float64, error) {
		if len(pods) == 0 {
			return 0, errors.New("no pod serves")
		}
		source, err := gate.source(target, pods, keys)
		if err != nil {
			return 0, err
		}
		return source.Query(ctx, gate.fill(text, target, pods))
	}
	reading := func(pods []string) (*analysis.Reading, error) {
		var reading analysis.Reading
		var err error
		if gate.Value != "" {
			if reading.Value, err = query(gate.Value, pods); err != nil {
				return nil, err
			}
			return &reading, nil
		}
		if reading.Total, err = query(gate.Total, pods); err != nil {
			return nil, err
		}
		reading.Bad, err = query(gate.Bad, pods)
		if errors.Is(err, analysis.ErrNoData) {
			// A counter of failures that has never counted does not exist in most
			// libraries. That requests were counted shows that the pods are seen.
			reading.Bad, err = 0, nil
		}
		if err != nil {
			return nil, err
		}
		return &reading, nil
	}
	if !gate.Compares() {
		value, err := query(gate.Query, canary)
		if err != nil {
			result.trouble = err.Error()
			return result
		}
		result.sample.Value = &value
		return result
	}
	if result.sample.Canary, err = reading(canary); err != nil {
		result.trouble = fmt.Sprintf("canary: %s", err)
	} else if result.sample.Baseline, err = reading(baseline); err != nil {
		result.trouble = fmt.Sprintf("baseline: %s", err)
	}
	return result
}

// token reads the bearer token of a gate anew at every look: Secrets rotate.
func (d *driver) token(ctx context.Context, ref *SecretKey) (string, error) {
	if ref == nil {
		return "", nil
	}
	secret, err := d.kube.CoreV1().Secrets(d.namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	value, ok := secret.Data[ref.Key]
	if !ok {
		return "", fmt.Errorf("token: Secret %s has no key %q", ref.Name, ref.Key)
	}
	return string(value), nil
}
