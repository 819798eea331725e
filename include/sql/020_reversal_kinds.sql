-- kind: what a line says that it is, as PeopleSoft calls it. It counts unless the settings call that something else; null: of
-- before kinds were kept, it counts.
ALTER TABLE reversal_line ADD COLUMN kind TEXT;
