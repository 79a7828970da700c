package sqlite

import (
	"context"
	"database/sql"
	"fmt"
)

// migrations bring a database from version i to i+1. They are never edited
// once released: a change is a new one at the end. The version is kept in
// PRAGMA user_version.
var migrations = []string{
	`
CREATE TABLE runs (
  number     INTEGER PRIMARY KEY AUTOINCREMENT,
  id         TEXT NOT NULL UNIQUE,
  pipeline   TEXT NOT NULL,
  repository TEXT NOT NULL,
  ref        TEXT NOT NULL,
  revision   TEXT NOT NULL,
  event      TEXT NOT NULL,
  actor      TEXT NOT NULL,
  status     TEXT NOT NULL,
  cause      TEXT NOT NULL DEFAULT '',
  message    TEXT NOT NULL DEFAULT '',
  created    INTEGER NOT NULL,           -- nanoseconds since 1970, UTC
  started    INTEGER NOT NULL DEFAULT 0, -- 0: not yet
  finished   INTEGER NOT NULL DEFAULT 0, -- 0: not yet
  seq        INTEGER NOT NULL,           -- of the newest entry
  worker     TEXT NOT NULL DEFAULT '',
  token      INTEGER NOT NULL DEFAULT 0, -- of the newest lease
  expires    INTEGER NOT NULL DEFAULT 0,
  log_seq    INTEGER NOT NULL DEFAULT 0, -- of the newest line
  log_bytes  INTEGER NOT NULL DEFAULT 0, -- before compression
  log_full   INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX runs_unfinished ON runs (number) WHERE finished = 0;
CREATE INDEX runs_repository ON runs (repository, number);
CREATE INDEX runs_finished ON runs (finished) WHERE finished > 0;
CREATE TABLE entries (
  run  INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
  seq  INTEGER NOT NULL,
  data BLOB NOT NULL,                    -- JSON of journal.Entry
  PRIMARY KEY (run, seq)
) WITHOUT ROWID;
CREATE TABLE log_chunks (
  run   INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
  last  INTEGER NOT NULL,                -- Seq of the chunk's last line
  first INTEGER NOT NULL,
  stage TEXT NOT NULL,
  codec INTEGER NOT NULL,                -- 0: JSON lines, 1: the same in zstd
  data  BLOB NOT NULL,
  PRIMARY KEY (run, last)
) WITHOUT ROWID;
`,
}

// migrate runs the migrations that the database has not seen, each in a
// transaction of its own. A database of a newer Tidegate is refused.
func migrate(ctx context.Context, conn *sql.Conn) error {
	var version int
	if err := conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read the schema version: %w", err)
	}
	if version > len(migrations) {
		return fmt.Errorf("the journal has schema version %d and this Tidegate knows %d: use the newer Tidegate that wrote it", version, len(migrations))
	}
	for ; version < len(migrations); version++ {
		if err := migrateOne(ctx, conn, version); err != nil {
			return fmt.Errorf("migrate the journal to schema version %d: %w", version+1, err)
		}
	}
	return nil
}

func migrateOne(ctx context.Context, conn *sql.Conn, version int) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	// Another process may have been faster: look again under the write lock.
	var now int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&now); err != nil {
		return err
	}
	if now > version {
		return nil
	}
	if _, err := tx.ExecContext(ctx, migrations[version]); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version+1)); err != nil {
		return err
	}
	return tx.Commit()
}
