-- "ipws": lets a foreign file be told from ours.
PRAGMA application_id = 0x69707773;

-- One row. The epoch is drawn at random when the file is made. A decision's number is
-- shown to refused clients and is never given twice, so the next one is kept here.
CREATE TABLE meta (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    epoch         INTEGER NOT NULL,
    revision      INTEGER NOT NULL,
    next_decision INTEGER NOT NULL
) STRICT;

-- Reasons and origins: a list of a million has one of each.
CREATE TABLE texts (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;

-- target: family (4 or 6), first address, prefix length, one byte sequence that sorts in
-- the order of the wire format. tier: 0 allow, 1 manual, 2 detector, 3 feed. Times are Unix
-- microseconds. added, removed: the revisions with which it came and went.
CREATE TABLE decisions (
    id         INTEGER PRIMARY KEY,
    target     BLOB NOT NULL,
    tier       INTEGER NOT NULL,
    origin     INTEGER NOT NULL REFERENCES texts (id),
    reason     INTEGER NOT NULL REFERENCES texts (id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    added      INTEGER NOT NULL,
    removed    INTEGER,
    removed_at INTEGER
) STRICT;

-- Answers every question about the present set; holds the expiry so that a snapshot is
-- read from the index alone, in wire order.
CREATE INDEX decisions_live ON decisions (target, tier, origin, expires_at)
    WHERE removed IS NULL;
