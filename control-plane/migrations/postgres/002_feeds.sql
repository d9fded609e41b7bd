-- As migrations/state/008_feeds.sql.
CREATE TABLE feeds (
    name       TEXT COLLATE "C" PRIMARY KEY,
    definition TEXT NOT NULL,
    status     TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
-- What an origin has, without reading anything else.
CREATE INDEX decisions_origin ON decisions (origin) INCLUDE (target, tier, id, expires_at)
    WHERE removed IS NULL;
