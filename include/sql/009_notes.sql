-- What the archive tells of payments beside what Alma shows: settled ones, and what was taken back and dealt with.
-- sha256: of the note that this ledger has written there, or taken from there. A note with another one was written
-- by a later life of the ledger.
CREATE TABLE payment_note (
    institution TEXT NOT NULL,
    external_id TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    noted_at TEXT NOT NULL,
    PRIMARY KEY (institution, external_id)
);
