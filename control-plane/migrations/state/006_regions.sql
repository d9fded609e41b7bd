-- Decisions by region. id: from the same count as decisions. region: country:FR, asn:64496.
-- path: this one and everything below it; '' for the whole site. Times are Unix microseconds.
CREATE TABLE regions (
    id         INTEGER PRIMARY KEY,
    region     TEXT NOT NULL,
    path       TEXT NOT NULL,
    mode       TEXT NOT NULL CHECK (mode IN ('enforce', 'shadow')),
    reason     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    expires_at INTEGER,
    UNIQUE (region, path)
) STRICT;
