// Package store keeps what builds made on this machine: blobs by digest, and
// records by key that say which blob answers it. Any number of processes may
// use one store at once, and one that is killed leaves nothing that matters:
// files appear whole or not at all.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// DefaultMaxBytes bounds a store that sets no bound.
const DefaultMaxBytes = 20 << 30

// maxRecord bounds a record read back, in bytes; tables of contents are the largest.
const maxRecord = 256 << 20

// Store is a directory of blobs and records.
type Store struct {
	dir      string
	maxBytes int64
	now      func() time.Time
	// neighbour is under the same cap; may be nil.
	neighbour Neighbour
}

// Options tune a store. The zero value is good.
type Options struct {
	// MaxBytes is the cap on all that is kept and being written; 0 means
	// DefaultMaxBytes.
	MaxBytes int64
	// Neighbour is kept elsewhere under the same cap; nil is nothing.
	Neighbour Neighbour
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Open uses dir, which is made if it does not exist.
func Open(dir string, options Options) (*Store, error) {
	s := &Store{dir: dir, maxBytes: options.MaxBytes, now: options.Now, neighbour: options.Neighbour}
	if s.maxBytes <= 0 {
		s.maxBytes = DefaultMaxBytes
	}
	if s.now == nil {
		s.now = time.Now
	}
	for _, sub := range []string{blobsDir, recordsDir, sessionsDir, cachesDir, logsDir} {
		// Layers hold what the context holds: no business of other users.
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("open build cache: %w", err)
		}
	}
	return s, nil
}

const (
	blobsDir    = "blobs"
	recordsDir  = "records"
	sessionsDir = "sessions"
	cachesDir   = "caches"
	logsDir     = "logs"
)

// Dir is where the store is.
func (s *Store) Dir() string { return s.dir }

func (s *Store) blobPath(digest v1.Hash) string {
	return filepath.Join(s.dir, blobsDir, digest.Algorithm+"-"+digest.Hex)
}

func (s *Store) recordPath(kind string, key v1.Hash) string {
	return filepath.Join(s.dir, recordsDir, kind+"-"+key.Hex)
}

// Has tells whether a blob of that size is here, and marks it used.
func (s *Store) Has(digest v1.Hash, size int64) bool {
	path := s.blobPath(digest)
	info, err := os.Stat(path)
	if err != nil || info.Size() != size {
		return false
	}
	s.touch(path)
	return true
}

// Blob opens a blob. The error is fs.ErrNotExist when it is not here.
func (s *Store) Blob(digest v1.Hash) (*os.File, error) {
	file, err := os.Open(s.blobPath(digest))
	if err != nil {
		return nil, fmt.Errorf("open cached blob: %w", err)
	}
	s.touch(file.Name())
	return file, nil
}

// Record reads what was kept for a key into value; false when there is nothing.
// A record that cannot be read is as good as none.
func (s *Store) Record(kind string, key v1.Hash, value any) (bool, error) {
	path := s.recordPath(kind, key)
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read build cache: %w", err)
	}
	defer file.Close()
	if err := decode(file, value); err != nil {
		return false, nil // a broken record is a miss
	}
	s.touch(path)
	return true, nil
}

// Record is a value with a form of its own in the store; others are kept as JSON.
type Record interface {
	MarshalRecord() ([]byte, error)
	// UnmarshalRecord may keep data.
	UnmarshalRecord(data []byte) error
}

// decode reads what encode wrote.
func decode(file *os.File, value any) error {
	record, ok := value.(Record)
	if !ok {
		return json.NewDecoder(io.LimitReader(file, maxRecord)).Decode(value)
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() > maxRecord {
		return fmt.Errorf("a record of %d bytes", info.Size())
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(file, data); err != nil {
		return err
	}
	return record.UnmarshalRecord(data)
}

func encode(value any) ([]byte, error) {
	if record, ok := value.(Record); ok {
		return record.MarshalRecord()
	}
	return json.Marshal(value)
}

// touch marks a file used. Failing to is harmless: it is only evicted earlier.
func (s *Store) touch(path string) {
	now := s.now()
	_ = os.Chtimes(path, now, now) // see above
}

// Put keeps value under key.
func (session *Session) Put(kind string, key v1.Hash, value any) error {
	data, err := encode(value)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	return session.place(session.store.recordPath(kind, key), data)
}

// PutBlob keeps a small blob whose digest the caller has checked.
func (session *Session) PutBlob(digest v1.Hash, data []byte) error {
	return session.place(session.store.blobPath(digest), data)
}

func (session *Session) place(path string, data []byte) error {
	file, err := session.Temporary()
	if err != nil {
		return err
	}
	defer file.Discard()
	if _, err := file.Write(data); err != nil {
		return err
	}
	return file.place(path)
}

// Temporary makes a file that vanishes with the session unless it is kept.
func (session *Session) Temporary() (*Temporary, error) {
	file, err := os.CreateTemp(session.dir, "blob-")
	if err != nil {
		return nil, fmt.Errorf("write build cache: %w", err)
	}
	return &Temporary{File: file, session: session}, nil
}

// Temporary is a blob being written.
type Temporary struct {
	*os.File
	session *Session
	// taken are bytes that the session took for the file.
	taken int64
	kept  bool
}

// Write takes room before it writes. The error is a *FullError when there is none.
func (t *Temporary) Write(p []byte) (int, error) {
	if err := t.take(int64(len(p))); err != nil {
		return 0, err
	}
	n, err := t.File.Write(p)
	if err != nil {
		err = fmt.Errorf("write build cache: %w", err)
	}
	return n, err
}

// ReadFrom copies by Write.
func (t *Temporary) ReadFrom(from io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{t}, from)
}

func (t *Temporary) take(n int64) error {
	if err := t.session.Take(n); err != nil {
		return err
	}
	t.taken += n
	return nil
}

// Keep makes the file the blob of that digest, which the caller has computed
// from what was written.
func (t *Temporary) Keep(digest v1.Hash) error {
	return t.place(t.session.store.blobPath(digest))
}

func (t *Temporary) place(path string) error {
	info, err := t.Stat()
	if err != nil {
		return fmt.Errorf("write build cache: %w", err)
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("write build cache: %w", err)
	}
	if missing := info.Size() - t.taken; missing > 0 {
		if err := t.take(missing); err != nil {
			return err
		}
	}
	t.session.store.touch(t.Name())
	// No fsync: after a power cut a file may be short or empty, which the size
	// in its record or the digest at upload gives away.
	if err := os.Rename(t.Name(), path); err != nil {
		return fmt.Errorf("write build cache: %w", err)
	}
	t.kept = true
	t.session.Give(t.taken - info.Size())
	return t.session.Kept(info.Size())
}

// Discard removes the file unless it was kept.
func (t *Temporary) Discard() {
	if !t.kept {
		_ = t.Close()                   // may be closed already
		if os.Remove(t.Name()) == nil { // the session's end removes it otherwise
			t.session.Give(t.taken)
		}
	}
}

// Begin starts a session: what is used from now on stays until End.
func (s *Store) Begin(ctx context.Context) (*Session, error) {
	return begin(ctx, s)
}
