-- What tells this ledger from an older copy of it, from an empty one, and from another campus's.

-- Every mark that this ledger has put outside itself. One that stands there and not here was put by
-- a later ledger than this one: it is a copy from before, or a second one beside it.
-- placed_at: when it surely stood in every place.
CREATE TABLE mark (
    institution TEXT NOT NULL,
    mark TEXT NOT NULL,
    at TEXT NOT NULL,
    run_id TEXT NOT NULL,
    placed_at TEXT,
    PRIMARY KEY (institution, mark)
);

-- What the ledger is bound to since it first saw it: Alma's environment, an SFTP server's host key.
-- A row named marks is a person's word that what stands outside is right, for once.
CREATE TABLE binding (
    institution TEXT NOT NULL,
    what TEXT NOT NULL,
    value TEXT NOT NULL,
    bound_at TEXT NOT NULL,
    bound_by TEXT NOT NULL,
    PRIMARY KEY (institution, what)
);

-- When the batch's state was last noted beside its file in the archive.
ALTER TABLE batch ADD COLUMN noted_at TEXT;
