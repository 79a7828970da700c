package process

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	tail := " 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0"
	tests := []struct {
		name, stat string
		want       Info
		ok         bool
	}{
		{"running", "12 (etcd) S" + tail, Info{PID: 12, StartTicks: 777}, true},
		{"zombie", "12 (etcd) Z" + tail, Info{PID: 12, StartTicks: 777, zombie: true}, true},
		{"name with everything in it", "12 (a) R 1 (b) S" + tail, Info{PID: 12, StartTicks: 777}, true},
		{"short", "12 (etcd) S 1", Info{}, false},
		{"empty", "", Info{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseStat(tt.stat)
			if (err == nil) != tt.ok || got.PID != tt.want.PID || got.StartTicks != tt.want.StartTicks || got.zombie != tt.want.zombie {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("12 (etcd) S 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0")
	f.Add(")(")
	f.Fuzz(func(_ *testing.T, stat string) { _, _ = parseStat(stat) })
}

func spec(t *testing.T, script string) Spec {
	dir := t.TempDir()
	return Spec{
		Name: "x", Args: []string{"/bin/sh", "-c", script}, Env: os.Environ(), Dir: dir,
		Log: filepath.Join(dir, "log", "x.log"), Records: filepath.Join(dir, "run"),
	}
}

func start(t *testing.T, s Spec) *Child {
	t.Helper()
	child, err := Start(s, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Stop(context.Background(), child.Record, 0); err != nil {
			t.Error(err)
		}
	})
	return child
}

func TestStartRecordsAndStopEnds(t *testing.T) {
	s := spec(t, "exec tail -f /dev/null")
	child := start(t, s)
	record, found := LoadRecord(s.Records, "x")
	if !found || !record.Alive() {
		t.Fatalf("record %+v, found %v", record, found)
	}
	other := record
	other.StartTicks++
	if other.Alive() {
		t.Error("another process with the same id counts as ours")
	}
	other = record
	other.Boot = "before the last start of the machine"
	if other.Alive() {
		t.Error("a process of an earlier boot counts as ours")
	}
	if err := Stop(t.Context(), record, time.Minute); err != nil {
		t.Fatal(err)
	}
	<-child.Exited
	if record.Alive() {
		t.Error("alive after Stop")
	}
}

func TestStopKillsWhatDoesNotListen(t *testing.T) {
	s := spec(t, "trap '' TERM; echo ready; while :; do read -r line < /dev/zero; done")
	child := start(t, s)
	for !strings.Contains(Tail(s.Log, 1), "ready") {
		if !child.Alive() {
			t.Fatal("ended by itself")
		}
	}
	if err := Stop(t.Context(), child.Record, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	<-child.Exited
}

func TestEndIsSeenAndLogged(t *testing.T) {
	s := spec(t, "echo one; echo two >&2; exit 7")
	child := start(t, s)
	<-child.Exited
	if child.Err() == nil || !strings.Contains(child.Err().Error(), "7") {
		t.Errorf("err %v", child.Err())
	}
	if got := Tail(s.Log, 1); got != "two" {
		t.Errorf("tail %q", got)
	}
	start(t, s)
	if got := Tail(s.Log+".1", 5); got != "one\ntwo" {
		t.Errorf("earlier log %q", got)
	}
}

func TestLoadRecordDamaged(t *testing.T) {
	dir := t.TempDir()
	for _, content := range []string{"", "{", `{"pid":1}`, `{"pid":-5}`} {
		if err := os.WriteFile(recordPath(dir, "x"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, found := LoadRecord(dir, "x"); found {
			t.Errorf("%q gives %+v", content, r)
		}
	}
}

func TestKillAll(t *testing.T) {
	child := start(t, spec(t, "exec tail -f /dev/null"))
	info, ok := Lookup(child.PID)
	if !ok {
		t.Fatal("not found")
	}
	recycled := info
	recycled.StartTicks--
	if err := KillAll(t.Context(), []Info{recycled}); err != nil || !child.Alive() {
		t.Fatalf("killed a process that only has the same id (err %v)", err)
	}
	if err := KillAll(t.Context(), []Info{info}); err != nil {
		t.Fatal(err)
	}
	<-child.Exited
}
