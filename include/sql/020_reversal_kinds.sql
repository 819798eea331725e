-- kind: what a line says that it is, as PeopleSoft calls it. It counts for as long as the settings call that a reversal; null:
-- of before, it counts.
ALTER TABLE reversal_line ADD COLUMN kind TEXT;
