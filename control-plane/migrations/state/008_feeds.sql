-- Lists that are fetched from elsewhere. definition: what an admin asked for, as JSON. status:
-- what became of it, as JSON; whoever fetches writes it. Neither holds a secret. Their
-- decisions are among all others, of the origin feed:<name>.
CREATE TABLE feeds (
    name       TEXT PRIMARY KEY,
    definition TEXT NOT NULL,
    status     TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
