package sqlite

// schema is applied whole at each start. Times are Unix milliseconds, 0 for none.
//
// lane is repository and ref: within a lane events are handled in order. The
// partial index holds pending events alone, so that what is done costs nothing
// when the next are looked for.
const schema = `
CREATE TABLE IF NOT EXISTS events (
	seq        INTEGER PRIMARY KEY AUTOINCREMENT,
	id         TEXT NOT NULL UNIQUE,
	lane       TEXT NOT NULL,
	repository TEXT NOT NULL,
	status     TEXT NOT NULL,
	event      BLOB NOT NULL,
	attempts   INTEGER NOT NULL DEFAULT 0,
	due        INTEGER NOT NULL DEFAULT 0,
	note       TEXT NOT NULL DEFAULT '',
	received   INTEGER NOT NULL,
	finished   INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS events_pending ON events (lane, seq) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS events_ended ON events (seq) WHERE status <> 'pending';
CREATE TABLE IF NOT EXISTS schedules (
	key        TEXT PRIMARY KEY,
	repository TEXT NOT NULL,
	fired      INTEGER NOT NULL
);
`
