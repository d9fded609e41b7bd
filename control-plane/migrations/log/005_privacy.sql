-- form: 0 the address as it came, 1 cut, 2 a pseudonym. key: the id of a pseudonym's key as a
-- number, 0 for none. opted_out: the client asked not to be counted.
ALTER TABLE records ADD COLUMN form INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN key INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN opted_out INTEGER NOT NULL DEFAULT 0;

-- Up to which number (exclusive) the records of an hour were looked at: for their addresses to
-- be hidden, and for each class to be deleted. A late record has a higher number.
ALTER TABLE hours ADD COLUMN hidden INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hours ADD COLUMN admitted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hours ADD COLUMN refused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hours ADD COLUMN sensitive INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hours ADD COLUMN every INTEGER NOT NULL DEFAULT 0;

-- The last record that arrived in an hour of our clock: what a proxy says of its time must not
-- keep a record alive.
CREATE TABLE arrivals (
    hour    INTEGER PRIMARY KEY,
    last_id INTEGER NOT NULL
) STRICT;

-- As before, but an address says what it is.
ALTER TABLE rollups RENAME TO rollups_old;
CREATE TABLE rollups (
    hour      INTEGER NOT NULL,
    form      INTEGER NOT NULL,
    key       INTEGER NOT NULL,
    address   BLOB NOT NULL,
    requests  INTEGER NOT NULL,
    sensitive INTEGER NOT NULL,
    state     BLOB NOT NULL,
    PRIMARY KEY (hour, form, key, address)
) STRICT, WITHOUT ROWID;
INSERT INTO rollups (hour, form, key, address, requests, sensitive, state)
    SELECT hour, 0, 0, address, requests, sensitive, state FROM rollups_old;
DROP TABLE rollups_old;

-- What stays when records are gone: requests by country. country: '' for unknown.
CREATE TABLE country_hours (
    hour     INTEGER NOT NULL,
    country  TEXT NOT NULL,
    requests INTEGER NOT NULL,
    refused  INTEGER NOT NULL,
    PRIMARY KEY (hour, country)
) STRICT, WITHOUT ROWID;

-- rollups_hidden: all rollups of earlier hours are hidden. rollups_from: of earlier hours there
-- are none of single addresses.
ALTER TABLE meta ADD COLUMN rollups_hidden INTEGER NOT NULL DEFAULT 0;
ALTER TABLE meta ADD COLUMN rollups_from INTEGER NOT NULL DEFAULT 0;
