-- What dashboards count, column by column: a segment holds what some successive records say,
-- each column as a dictionary with its counts and one code a record. A segment is a function of
-- its records and can be built again at any time: whatever changes or deletes one of them drops
-- it. slots: ten seconds since 1970 (Unix time / 10).
CREATE TABLE segments (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    first_id   INTEGER NOT NULL UNIQUE,
    last_id    INTEGER NOT NULL,
    first_slot INTEGER NOT NULL,
    last_slot  INTEGER NOT NULL
) STRICT;

-- id: the segment's times 32, and the number of the piece.
CREATE TABLE segment_pieces (
    id   INTEGER PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;

CREATE TRIGGER segments_dropped AFTER DELETE ON segments BEGIN
    DELETE FROM segment_pieces WHERE id BETWEEN OLD.id * 32 AND OLD.id * 32 + 31;
END;

-- The greatest first_id that is not beyond the record is the only segment that can hold it.
CREATE TRIGGER records_updated AFTER UPDATE ON records BEGIN
    DELETE FROM segments WHERE last_id >= OLD.id AND first_id =
        (SELECT max(first_id) FROM segments WHERE first_id <= OLD.id);
END;
CREATE TRIGGER records_deleted AFTER DELETE ON records BEGIN
    DELETE FROM segments WHERE last_id >= OLD.id AND first_id =
        (SELECT max(first_id) FROM segments WHERE first_id <= OLD.id);
END;
