-- "ipwl": lets a foreign file be told from ours.
PRAGMA application_id = 0x6970776c;

-- One row. A record's number is never given twice, whatever was deleted.
CREATE TABLE meta (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    next_record INTEGER NOT NULL
) STRICT;
INSERT INTO meta (id, next_record) VALUES (1, 1);

-- Methods, hosts, paths, user agents, rules and proxies as they are shown. last_hour: the
-- latest hour (Unix time / 3600) of a record that uses the text; no record of a later hour
-- does, so a text whose last hour is past retention is unused.
CREATE TABLE strings (
    id        INTEGER PRIMARY KEY,
    text      TEXT NOT NULL UNIQUE,
    last_hour INTEGER NOT NULL
) STRICT;

-- time: Unix microseconds. ip: 4 or 16 bytes. method, host, path, user_agent, rule, proxy:
-- ids of strings. query: as shown, seldom the same twice. flags: a set of bits. request_id:
-- 16 bytes where it is a UUID, text otherwise.
CREATE TABLE records (
    id          INTEGER PRIMARY KEY,
    time        INTEGER NOT NULL,
    ip          BLOB,
    verdict     INTEGER NOT NULL,
    decision    INTEGER,
    rule        INTEGER,
    weight      INTEGER NOT NULL,
    method      INTEGER NOT NULL,
    host        INTEGER NOT NULL,
    path        INTEGER NOT NULL,
    query       TEXT,
    status      INTEGER NOT NULL,
    flags       INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    bytes_in    INTEGER NOT NULL,
    bytes_out   INTEGER NOT NULL,
    user_agent  INTEGER NOT NULL,
    request_id  ANY,
    proxy       INTEGER NOT NULL
) STRICT;

-- Segments of 2^18 records, by address inside a segment: writes stay in the small hot part
-- of the index however large the log is, records of one address come in order of number
-- without sorting, and old segments are deleted as a whole. Records without an address
-- are found by scanning only.
CREATE INDEX records_ip ON records (id >> 18, ip) WHERE ip IS NOT NULL;

-- Between which numbers the records of an hour (Unix time / 3600) lie: numbers follow
-- arrival, so this takes the place of an index over time.
CREATE TABLE hours (
    hour     INTEGER PRIMARY KEY,
    first_id INTEGER NOT NULL,
    last_id  INTEGER NOT NULL
) STRICT;

-- What each worker reported, and which of its batches arrived: all up to the watermark
-- and, after gaps, the ranges in ahead. stream, epoch, revision and watermark are unsigned
-- numbers of 64 bits in signed columns.
CREATE TABLE streams (
    stream          INTEGER PRIMARY KEY,
    proxy           TEXT NOT NULL,
    version         TEXT NOT NULL,
    started_at      INTEGER NOT NULL,
    sent_at         INTEGER NOT NULL,
    last_seen       INTEGER NOT NULL,
    clock_offset_ms INTEGER NOT NULL,
    epoch           INTEGER NOT NULL,
    revision        INTEGER NOT NULL,
    seen            INTEGER NOT NULL,
    lost            INTEGER NOT NULL,
    skipped         INTEGER NOT NULL,
    stored          INTEGER NOT NULL,
    watermark       INTEGER NOT NULL,
    ahead           BLOB NOT NULL
) STRICT;
