-- Who is told what; synchronised with the configuration at each start. events: bits, see
-- notify::EventKind. dropped: messages given up because too many waited or waited too long.
CREATE TABLE hooks (
    name         TEXT PRIMARY KEY,
    events       INTEGER NOT NULL,
    min_severity INTEGER NOT NULL,
    dropped      INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What hooks have still to be told, written in the transaction that made it so. Holds the
-- number of a suspect, never an address: whoever is erased there is erased here.
CREATE TABLE outbox (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    hook     TEXT NOT NULL,
    event    INTEGER NOT NULL,
    time     INTEGER NOT NULL,
    suspect  INTEGER NOT NULL,
    decision INTEGER
) STRICT;
CREATE INDEX outbox_hook ON outbox (hook, id);
CREATE INDEX outbox_suspect ON outbox (suspect);
