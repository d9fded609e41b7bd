-- What some successive segments say together: dictionaries with their counts, no codes. Of level 1
-- over segments, of each further level over those below. A summary is a function of its segments:
-- with one of them it is gone, and it can be made again at any time.
CREATE TABLE summaries (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    level      INTEGER NOT NULL,
    first_id   INTEGER NOT NULL,
    last_id    INTEGER NOT NULL,
    first_slot INTEGER NOT NULL,
    last_slot  INTEGER NOT NULL,
    UNIQUE (level, first_id)
) STRICT;

-- id: the summary's times 32, and the number of the piece, as those of segments.
CREATE TABLE summary_pieces (
    id   INTEGER PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;

CREATE TRIGGER summaries_dropped AFTER DELETE ON summaries BEGIN
    DELETE FROM summary_pieces WHERE id BETWEEN OLD.id * 32 AND OLD.id * 32 + 31;
END;
CREATE TRIGGER summaries_outdated AFTER DELETE ON segments BEGIN
    DELETE FROM summaries WHERE first_id <= OLD.last_id AND last_id >= OLD.first_id;
END;
