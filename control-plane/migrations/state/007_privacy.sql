-- form: 0 the address as it came, 1 cut, 2 a pseudonym. key: the id of a pseudonym's key as a
-- number, 0 for none.
ALTER TABLE suspects ADD COLUMN form INTEGER NOT NULL DEFAULT 0;
ALTER TABLE suspects ADD COLUMN key INTEGER NOT NULL DEFAULT 0;
DROP INDEX suspects_open;
CREATE UNIQUE INDEX suspects_open ON suspects (target, form, key) WHERE status = 'open';

CREATE INDEX audit_time ON audit (time);
