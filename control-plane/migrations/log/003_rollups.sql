-- What each address did in each hour, so that the hourly pass reads no records. address: 4
-- bytes, or the first 8 of IPv6. requests and sensitive are in the state, too; here they can
-- be searched by. What records up to meta.rolled_up (exclusive) say is in it, and nothing of
-- those from there on: that is added again after a crash.
CREATE TABLE rollups (
    hour      INTEGER NOT NULL,
    address   BLOB NOT NULL,
    requests  INTEGER NOT NULL,
    sensitive INTEGER NOT NULL,
    state     BLOB NOT NULL,
    PRIMARY KEY (hour, address)
) STRICT, WITHOUT ROWID;

-- The same for all addresses together.
CREATE TABLE site_hours (
    hour      INTEGER PRIMARY KEY,
    addresses INTEGER NOT NULL,
    requests  INTEGER NOT NULL
) STRICT;

-- What verified identities did, where records carry them; written with the batch, because the
-- records themselves don't keep it. places: JSON, bounded.
CREATE TABLE identity_hours (
    hour     INTEGER NOT NULL,
    identity TEXT NOT NULL,
    requests INTEGER NOT NULL,
    places   TEXT NOT NULL,
    PRIMARY KEY (hour, identity)
) STRICT, WITHOUT ROWID;

ALTER TABLE meta ADD COLUMN rolled_up INTEGER NOT NULL DEFAULT 1;
