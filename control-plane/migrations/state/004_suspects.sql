-- Addresses that detectors flagged. target: as in decisions. reasons: JSON, bounded; what
-- must be searched or sorted by has a column. flags: how many it stands for; judged: of how
-- many of them the policy has decided. quiet_until: of a confirmed one, until when further
-- flags are no news; of a dismissed one, until when the same rules are not heard.
CREATE TABLE suspects (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    target      BLOB NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('open', 'confirmed', 'dismissed')),
    severity    INTEGER NOT NULL,
    score       REAL NOT NULL,
    first_seen  INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL,
    noted_at    INTEGER NOT NULL,
    country     TEXT,
    city        TEXT,
    asn         INTEGER,
    reasons     TEXT NOT NULL,
    flags       INTEGER NOT NULL,
    judged      INTEGER NOT NULL DEFAULT 0,
    decision    INTEGER,
    closed_at   INTEGER,
    closed_by   TEXT,
    quiet_until INTEGER
) STRICT;

-- One open suspect a target.
CREATE UNIQUE INDEX suspects_open ON suspects (target) WHERE status = 'open';
CREATE INDEX suspects_target ON suspects (target, status);
-- What the policy has still to look at: also after a crash.
CREATE INDEX suspects_unjudged ON suspects (id) WHERE judged < flags;

-- Blocks that the policy made: how long the next one of a target lasts, and whether the
-- brake acts, follow from them.
CREATE TABLE automatic_blocks (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    target   BLOB NOT NULL,
    time     INTEGER NOT NULL,
    decision INTEGER NOT NULL UNIQUE
) STRICT;
CREATE INDEX automatic_blocks_target ON automatic_blocks (target, time);
CREATE INDEX automatic_blocks_time ON automatic_blocks (time);

-- Hours that the pass was asked for. A row is written with what the pass found, in one
-- transaction: an hour is done once.
CREATE TABLE passes (
    hour        INTEGER PRIMARY KEY,
    finished_at INTEGER NOT NULL,
    addresses   INTEGER NOT NULL,
    requests    INTEGER NOT NULL,
    flagged     INTEGER NOT NULL
) STRICT;
