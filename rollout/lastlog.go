package rollout

import (
	"context"
	"io"
	"strings"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"

	"github.com/tidegate-ci/tidegate/rollout/health"
)

const (
	// logPatience is how long going back waits for the log of the container that
	// failed: going back matters more.
	logPatience = time.Second
	// logLimit is how long it is read for in all, while the release goes back.
	logLimit = 10 * time.Second
)

// lateLog is the end of a log that a busy node did not give in time.
type lateLog struct {
	revision int
	lines    chan []string // gets one
	cancel   context.CancelFunc
}

// readLog reads the end of a failing container's log. What is not there in time
// is nil, and comes into the record by takeLog.
func (d *driver) readLog(ctx context.Context, c *health.Container, patience time.Duration) []string {
	d.dropLog()
	ctx, cancel := context.WithTimeout(ctx, logLimit)
	late := &lateLog{d.record.Current.Revision, make(chan []string, 1), cancel}
	go func() { late.lines <- d.lastLines(ctx, c) }()
	early := time.NewTimer(patience)
	defer early.Stop()
	select {
	case lines := <-late.lines:
		cancel()
		return lines
	case <-early.C:
		d.late = late // which takeLog or dropLog waits for
		return nil
	}
}

// takeLog puts a late log into the record, if it has come; at the end of the
// rollout it is waited for.
func (d *driver) takeLog(final bool) {
	late := d.late
	if late == nil || !final && len(late.lines) == 0 {
		return
	}
	lines := <-late.lines
	late.cancel()
	d.late = nil
	if r := d.record.Current; r.Revision == late.revision && r.Failure != nil && r.Failure.Log == nil {
		r.Failure.Log = lines
	}
}

// dropLog ends the reading of a log that nobody waits for any more.
func (d *driver) dropLog() {
	if d.late == nil {
		return
	}
	d.late.cancel()
	<-d.late.lines
	d.late = nil
}

// lastLines reads the end of the log of the run that failed. A log is asked for as
// that of the run now or the one before, and the kubelet may start the container
// again meanwhile: at once after its first end, later not for 10 s. Whether it had
// is seen afterwards by a run before the one that was read.
func (d *driver) lastLines(ctx context.Context, c *health.Container) []string {
	lines := d.linesOf(ctx, c, c.Previous)
	if c.First && !c.Previous {
		if before := d.linesOf(ctx, c, true); before != nil {
			return before
		}
	}
	return lines
}

// linesOf reads the end of a container's log; nil is none.
func (d *driver) linesOf(ctx context.Context, c *health.Container, previous bool) []string {
	lines, limit := int64(maxLogLines), int64(maxLogBytes)
	stream, err := d.kube.CoreV1().Pods(d.namespace).GetLogs(c.Pod, &corev1.PodLogOptions{
		Container: c.Name, Previous: previous, TailLines: &lines, LimitBytes: &limit}).Stream(ctx)
	if err != nil {
		d.log.Info("no log of the failing container", zap.String("pod", c.Pod), zap.Bool("previous", previous), zap.Error(err))
		return nil
	}
	defer stream.Close()
	content, err := io.ReadAll(io.LimitReader(stream, maxLogBytes))
	if err != nil && len(content) == 0 {
		return nil
	}
	text := strings.TrimRight(strings.ToValidUTF8(string(content), "�"), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
