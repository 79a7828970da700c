package rollout

import (
	"errors"
	"fmt"
	"time"

	"github.com/robfig/cron/v3"
)

// Limits of freeze windows.
const (
	MaxWindows        = 50
	MaxWindowDuration = 31 * 24 * time.Hour
	// maxOccurrences bounds the occurrences of one window that are looked at: one
	// a minute for the longest duration is the most a window can have.
	maxOccurrences = 45_000
	// maxChained bounds the windows without a break that are looked through: when
	// the last of them ends it is looked again.
	maxChained = 10
)

// Window is a time in which no release is begun: it begins whenever Cron says
// and lasts for Duration, or lasts once, from From until Until.
type Window struct {
	// Cron has the five fields minute, hour, day of month, month, day of week.
	Cron     string        `json:"cron,omitempty"`
	Duration time.Duration `json:"duration,omitempty"`
	From     time.Time     `json:"from,omitzero"`
	Until    time.Time     `json:"until,omitzero"`
	// Zone is the IANA name of the time zone of Cron; empty means UTC.
	Zone string `json:"zone,omitempty"`
	// Reason is what people are told.
	Reason string `json:"reason,omitempty"`
}

// Check says what makes no sense.
func (w Window) Check() error {
	_, err := w.schedule()
	switch {
	case err != nil:
		return err
	case w.Cron == "" && !w.Until.After(w.From):
		return errors.New("until must be after from")
	case w.Cron != "" && (w.Duration < time.Minute || w.Duration > MaxWindowDuration):
		return fmt.Errorf("duration %s: use 1m to %s", w.Duration, MaxWindowDuration)
	case len(w.Reason) > maxRecordText:
		return fmt.Errorf("the reason is longer than %d bytes", maxRecordText)
	}
	return nil
}

// schedule is when the window begins; nil for one that lasts once.
func (w Window) schedule() (cron.Schedule, error) {
	zone := w.Zone
	if zone == "" {
		zone = "UTC"
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return nil, fmt.Errorf("zone %q: use a name such as Europe/Berlin: %w", w.Zone, err)
	}
	if w.Cron == "" {
		if w.From.IsZero() || w.Until.IsZero() || w.Duration != 0 {
			return nil, errors.New("give cron and duration, or from and until")
		}
		return nil, nil
	}
	if !w.From.IsZero() || !w.Until.IsZero() {
		return nil, errors.New("give cron and duration, or from and until, not both")
	}
	schedule, err := cron.ParseStandard(w.Cron)
	if err != nil {
		return nil, fmt.Errorf("cron %q: %w", w.Cron, err)
	}
	spec, ok := schedule.(*cron.SpecSchedule)
	if !ok { // "@every 1h" begins at no certain time
		return nil, fmt.Errorf("cron %q: write the five fields minute, hour, day of month, month, day of week", w.Cron)
	}
	spec.Location = location
	return spec, nil
}

// open tells until when the window that now is in lasts; zero when it is in none.
func (w Window) open(now time.Time) time.Time {
	schedule, err := w.schedule()
	if err != nil {
		return time.Time{} // refused when it was configured
	}
	if schedule == nil {
		if now.Before(w.From) || !now.Before(w.Until) {
			return time.Time{}
		}
		return w.Until
	}
	var until time.Time
	start := schedule.Next(now.Add(-w.Duration))
	for range maxOccurrences {
		if start.IsZero() || start.After(now) {
			break
		}
		until = start.Add(w.Duration)
		start = schedule.Next(start)
	}
	return until
}

// Frozen tells whether now is in a window, until when that and those that
// follow without a break last, and why.
func Frozen(windows []Window, now time.Time) (until time.Time, reason string, frozen bool) {
	until = now
	for range maxChained {
		longer := false
		for _, w := range windows {
			if end := w.open(until); end.After(until) {
				if !frozen {
					reason = w.Reason
				}
				until, frozen, longer = end, true, true
			}
		}
		if !longer {
			break
		}
	}
	return until, reason, frozen
}

// checkWindows examines the windows of a request.
func checkWindows(windows []Window) error {
	if len(windows) > MaxWindows {
		return fmt.Errorf("%w: %d freeze windows; at most %d", ErrInvalid, len(windows), MaxWindows)
	}
	for i, w := range windows {
		if err := w.Check(); err != nil {
			return fmt.Errorf("%w: freeze window %d: %w", ErrInvalid, i+1, err)
		}
	}
	return nil
}

// held is the wait for the end of a freeze, unless someone has overridden it.
func (r *Rollout) held(now time.Time) (Action, bool) {
	if r.Override != "" || len(r.HookRuns) > 0 { // its hooks have begun it
		return Action{}, false
	}
	until, reason, frozen := Frozen(r.Freeze, now)
	if !frozen {
		return Action{}, false
	}
	if reason != "" {
		reason = " (" + reason + ")"
	}
	return Action{Kind: Wait, Until: until, Held: true, Why: fmt.Sprintf("held by a freeze window%s until %s; \"override\" begins it now", reason, until.UTC().Format("2006-01-02 15:04 MST"))}, true
}
