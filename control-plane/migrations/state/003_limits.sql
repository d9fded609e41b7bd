-- Revision of the last change to limits; 0: never changed.
ALTER TABLE meta ADD COLUMN limits INTEGER NOT NULL DEFAULT 0;

-- Changes that lie over the proxies' own limits. definition: a whole limit as JSON, absent
-- where only the mode of a configured one is changed. mode: in the place of the
-- definition's own.
CREATE TABLE limits (
    name       TEXT PRIMARY KEY,
    definition TEXT,
    mode       TEXT CHECK (mode IN ('enforce', 'shadow')),
    changed_at INTEGER NOT NULL,
    changed_by TEXT NOT NULL,
    CHECK (definition IS NOT NULL OR mode IS NOT NULL)
) STRICT;

-- Buckets that are to be full again. A number is never given twice: a proxy remembers the
-- last one that it did. name: of one limit; absent for all.
CREATE TABLE limit_resets (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    key  TEXT NOT NULL,
    name TEXT,
    time INTEGER NOT NULL
) STRICT;
