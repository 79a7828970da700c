// Package sqlite keeps the journal in a SQLite database file.
//
// Durability: the database runs in WAL mode. A commit that holds an entry
// syncs the WAL before it returns (synchronous=FULL), so entries survive power
// loss. Commits that hold only log lines or lease times do not sync: they
// survive a kill of the process, and power loss once any later entry is
// synced; a lost lease time or the last lines of a log decide nothing.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	sqlitedriver "modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// Options are the limits of a journal. The zero value is usable.
type Options struct {
	// LogLimit bounds the log of one run, in bytes of text; what comes after is
	// dropped behind one line that says so. 0 means DefaultLogLimit.
	LogLimit int64
	// KeepFor deletes runs that finished longer ago; 0 keeps them.
	KeepFor time.Duration
	// KeepRuns deletes the oldest finished runs beyond this number; 0 keeps them.
	KeepRuns int
	// MaxBytes bounds the database file; writes beyond fail with
	// journal.ErrFull. 0 means no bound but the disk's.
	MaxBytes int64
	// LogAhead is how many bytes of write-ahead log are laid out when the
	// journal is made, which makes syncs cheaper and that first opening some
	// milliseconds slower. 0 means 4.3 MB; negative lays out none.
	LogAhead int64
	// OnPruneError hears of a failed clean-up of old runs; it is repeated at
	// the next interval. Nil ignores it.
	OnPruneError func(error)
}

const (
	// DefaultLogLimit bounds the log of one run.
	DefaultLogLimit = 64 << 20
	// pruneEvery is how often old runs are looked for, when a limit is set.
	pruneEvery = time.Hour
	// busyTimeout bounds the wait for a writer of another process.
	busyTimeout = 10 * time.Second
	// readers bounds the connections that read at the same time.
	readers = 4
	// logAhead is written ahead of use. Overwriting blocks that exist makes a
	// sync several times cheaper than growing the file (measured here: 0.3 ms
	// against 1.3 ms). It is a little above SQLite's checkpoint at 1000 pages.
	logAhead = 4_300_000
	pageSize = 4096
)

// Journal is a journal.Journal in one SQLite file.
type Journal struct {
	options Options
	read    *sql.DB
	write   *sql.DB
	conn    *sql.Conn // the writer's own
	writer  *writer
	watch   *watchers

	stop      context.CancelFunc
	owned     sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

var _ journal.Journal = (*Journal)(nil)

// Open opens the journal at path and creates it, with its directory, if there
// is none. Several processes may have it open at once.
func Open(ctx context.Context, path string, options Options) (*Journal, error) {
	if options.LogAhead == 0 {
		options.LogAhead = logAhead
	}
	if options.LogLimit == 0 {
		options.LogLimit = DefaultLogLimit
	}
	j, err := open(ctx, path, options)
	if err != nil {
		return nil, fmt.Errorf("open the journal %s: %w", path, storageError(err))
	}
	return j, nil
}

func open(ctx context.Context, path string, options Options) (_ *Journal, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	// SQLite would make the file readable to all; runs are not for everyone.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	if options.LogAhead > 0 {
		if err := layOut(ctx, path, options.LogAhead); err != nil {
			return nil, err
		}
	}
	if err := syncDirectory(filepath.Dir(path)); err != nil {
		return nil, err
	}
	j := &Journal{options: options, watch: newWatchers()}
	defer func() {
		if err != nil {
			j.closeDatabases() //nolint:errcheck // the first error is the one to tell
		}
	}()
	if j.write, err = openWriting(path); err != nil {
		return nil, err
	}
	if j.conn, err = j.write.Conn(ctx); err != nil {
		return nil, err
	}
	if err := j.conn.Raw(keepLog); err != nil {
		return nil, err
	}
	if err := migrate(ctx, j.conn); err != nil {
		return nil, err
	}
	if options.MaxBytes > 0 {
		if _, err := j.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA max_page_count = %d", max(options.MaxBytes/pageSize, 1))); err != nil {
			return nil, err
		}
	}
	if j.read, err = sql.Open("sqlite", dsn(path, "", "query_only(ON)")); err != nil {
		return nil, err
	}
	j.read.SetMaxOpenConns(readers)
	j.read.SetMaxIdleConns(readers)
	if j.writer, err = newWriter(ctx, j.conn, options.LogLimit, j.watch.notify); err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	j.stop = stop
	j.owned.Go(j.writer.serve)
	if options.KeepFor > 0 || options.KeepRuns > 0 {
		j.owned.Go(func() { j.pruneForever(background) })
	}
	return j, nil
}

func dsn(path, parameter string, pragmas ...string) string {
	query := parameter
	for _, pragma := range append(pragmas, fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())) {
		query += "&_pragma=" + url.QueryEscape(pragma)
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: query}).String()
}

func openWriting(path string) (*sql.DB, error) {
	return sql.Open("sqlite", dsn(path, "_txlock=immediate", "auto_vacuum(INCREMENTAL)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)"))
}

// layOut makes a write-ahead log of zeros where there is none. SQLite takes a
// log without a valid header for an empty one, but deletes it beside an empty
// database: so the database is made first.
func layOut(ctx context.Context, path string, size int64) (err error) {
	if _, err := os.Lstat(path + "-wal"); err == nil {
		return nil
	}
	if info, err := os.Stat(path); err != nil {
		return err
	} else if info.Size() == 0 {
		db, err := openWriting(path)
		if err != nil {
			return err
		}
		err = withConnection(ctx, db, migrate)
		if err := errors.Join(err, db.Close()); err != nil {
			return err
		}
	}
	if err := preallocate(path+"-wal", size); err != nil {
		return fmt.Errorf("lay out the write-ahead log: %w", err)
	}
	return nil
}

func withConnection(ctx context.Context, db *sql.DB, use func(context.Context, *sql.Conn) error) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	return errors.Join(use(ctx, conn), conn.Close())
}

// preallocate makes a file of zeros, unless there is a file. The link makes it
// appear whole or not at all, and never in place of a log in use.
func preallocate(path string, size int64) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".wal-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // the link is what counts
	_, err = file.Write(make([]byte, size))
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Link(file.Name(), path)
	}
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// keepLog leaves the write-ahead log, emptied, for the next to open the
// journal: it need not be laid out again.
func keepLog(driver any) error {
	control, ok := driver.(sqlitedriver.FileControl)
	if !ok {
		return fmt.Errorf("the SQLite driver %T has no file control", driver)
	}
	_, err := control.FileControlPersistWAL("main", 1)
	return err
}

// syncDirectory makes the names of new files survive power loss.
func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}

// Close ends the journal's goroutines after what they were given is stored,
// and closes the file.
func (j *Journal) Close() error {
	j.closeOnce.Do(func() {
		j.stop()
		j.writer.close()
		j.owned.Wait()
		j.watch.close()
		j.closeErr = j.closeDatabases()
	})
	return j.closeErr
}

func (j *Journal) closeDatabases() error {
	var errs []error
	if j.read != nil {
		errs = append(errs, j.read.Close())
	}
	// The writer's connection is the last, as it is set to keep the log.
	if j.writer != nil {
		errs = append(errs, j.writer.closeStatements())
	}
	if j.conn != nil {
		errs = append(errs, j.conn.Close())
	}
	if j.write != nil {
		errs = append(errs, j.write.Close())
	}
	return errors.Join(errs...)
}

// storageError turns SQLite's ways to say "no room" into journal.ErrFull.
func storageError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", journal.ErrFull, err)
	}
	var e *sqlitedriver.Error
	if !errors.As(err, &e) {
		return err
	}
	switch code := e.Code(); {
	case code&0xff == sqlitelib.SQLITE_FULL,
		// The shared index beside the log could not grow.
		code == sqlitelib.SQLITE_IOERR_SHMSIZE:
		return fmt.Errorf("%w: %w", journal.ErrFull, err)
	}
	return err
}

func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanoseconds(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
