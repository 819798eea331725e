-- What a person has settled stays settled while it stands: once what is looked at no longer shows it, the next time is news.

-- standing 1: a person has settled this entry, and it was seen at each look since, or was not looked for.
ALTER TABLE exception_item ADD COLUMN standing INTEGER NOT NULL DEFAULT 0;
UPDATE exception_item SET standing = 1 WHERE closed_by <> 'system';
CREATE INDEX exception_standing ON exception_item (institution, kind, subject) WHERE standing = 1;

-- moved_to: where a file was about to be archived. What lies there may be another one, put in its place just before.
ALTER TABLE payment_file ADD COLUMN moved_to TEXT;
