-- Segments hold what an address is, and pseudonyms, from here on: they are built again.
DELETE FROM segments;
