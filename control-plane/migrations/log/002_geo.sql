-- Where a client was when its request was stored. country: the two letters themselves, which
-- take no more room than a number of strings. city: id of strings. asn: number of the
-- autonomous system. NULL: unknown, or stored before there was data.
ALTER TABLE records ADD COLUMN country TEXT;
ALTER TABLE records ADD COLUMN city INTEGER;
ALTER TABLE records ADD COLUMN asn INTEGER;
