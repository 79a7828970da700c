package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// EntryKind says what an entry of a store is.
type EntryKind string

// The kinds of entry.
const (
	// KindBlob is a layer, manifest or configuration.
	KindBlob EntryKind = "blob"
	// KindRecord answers a step's key, or is a table of contents.
	KindRecord EntryKind = "record"
	// KindMount is the directory of a cache mount.
	KindMount EntryKind = "mount"
	// KindLog is the full log of a build.
	KindLog EntryKind = "log"
	// KindUnpacked is an unpacked layer.
	KindUnpacked EntryKind = "unpacked"
)

// Entry is one thing a store keeps.
type Entry struct {
	Kind EntryKind `json:"kind"`
	// Name is a digest, a record's kind and key, or a mount's id.
	Name string `json:"name"`
	// Scope is whose a mount is.
	Scope string    `json:"scope,omitempty"`
	Bytes int64     `json:"bytes"`
	Used  time.Time `json:"used"`

	path string
}

// Neighbour keeps other things that count toward a store's cap: unpacked layers.
type Neighbour interface {
	// Kept lists them.
	Kept(ctx context.Context) ([]Entry, error)
	// Remove removes one unless it is in use.
	Remove(ctx context.Context, entry Entry) (bool, error)
}

// List gives all entries, that used least recently first.
func (s *Store) List(ctx context.Context) ([]Entry, error) {
	unlock, err := s.exclusive(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return s.list(ctx)
}

func (s *Store) list(ctx context.Context) ([]Entry, error) {
	var all []Entry
	for _, sub := range []string{blobsDir, recordsDir, logsDir} {
		entries, err := os.ReadDir(filepath.Join(s.dir, sub))
		if err != nil {
			return nil, fmt.Errorf("measure build cache: %w", err)
		}
		for _, entry := range entries {
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("measure build cache: %w", err)
			}
			e := Entry{Kind: KindRecord, Name: entry.Name(), Bytes: info.Size(), Used: info.ModTime(), path: filepath.Join(s.dir, sub, entry.Name())}
			switch sub {
			case blobsDir:
				e.Kind, e.Name = KindBlob, strings.Replace(e.Name, "-", ":", 1)
			case logsDir:
				e.Kind = KindLog
			}
			all = append(all, e)
		}
	}
	mounts, err := s.mounts(ctx)
	if err != nil {
		return nil, err
	}
	all = append(all, mounts...)
	if s.neighbour != nil {
		kept, err := s.neighbour.Kept(ctx)
		if err != nil {
			return nil, fmt.Errorf("measure build cache: %w", err)
		}
		for _, e := range kept {
			e.Kind = KindUnpacked
			all = append(all, e)
		}
	}
	byUse(all)
	return all, nil
}

// remove removes an entry unless somebody holds it. The caller holds the
// store's lock.
func (s *Store) remove(ctx context.Context, e Entry) (bool, error) {
	switch e.Kind {
	case KindUnpacked:
		return s.neighbour.Remove(ctx, e)
	case KindMount:
		return s.removeMount(e)
	}
	// Aside first: a build that found it meanwhile has marked it used, and gets
	// it back. Under the lock nobody else uses the name.
	aside := filepath.Join(s.dir, asideName)
	if err := os.Rename(e.path, aside); err != nil {
		return errors.Is(err, fs.ErrNotExist), ignoreMissing(err)
	}
	info, err := os.Stat(aside)
	if err != nil {
		return false, err
	}
	if !info.ModTime().Equal(e.Used) {
		return false, os.Rename(aside, e.path)
	}
	return true, os.Remove(aside)
}

const asideName = "evicted"

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Filter says what Prune may remove. The zero value is everything.
type Filter struct {
	// Before spares what was used since; the zero value spares nothing.
	Before time.Time
	// Keep is how many bytes may stay.
	Keep int64
	// Kinds are what may be removed; none means all.
	Kinds []EntryKind
	// Only, if not nil, tells what may be removed.
	Only func(Entry) bool
}

// Prune removes entries, those used least recently first, and tells which. What
// a running build uses stays.
func (s *Store) Prune(ctx context.Context, filter Filter) ([]Entry, error) {
	unlock, err := s.exclusive(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	running, err := s.running()
	if err != nil {
		return nil, err
	}
	all, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	var kept int64
	for _, e := range all {
		kept += e.Bytes
	}
	var removed []Entry
	for _, e := range all {
		if kept <= filter.Keep {
			break
		}
		if !e.Used.Before(running.oldest) || !filter.takes(e) {
			continue
		}
		gone, err := s.remove(ctx, e)
		if err != nil {
			return removed, fmt.Errorf("prune build cache: %w", err)
		}
		if gone {
			kept -= e.Bytes
			removed = append(removed, e)
		}
	}
	return removed, nil
}

func (f Filter) takes(e Entry) bool {
	if !f.Before.IsZero() && !e.Used.Before(f.Before) {
		return false
	}
	if f.Only != nil && !f.Only(e) {
		return false
	}
	for _, kind := range f.Kinds {
		if kind == e.Kind {
			return true
		}
	}
	return len(f.Kinds) == 0
}
