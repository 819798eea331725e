-- What PeopleSoft shows of what it was sent: lines seen there, lines that were not, and lines made void.
-- A line has one state more: void (delivered, and never loaded by PeopleSoft, as a person has said).

-- confirmed_at: when a list of items first showed the line, confirmed_in: that list's file name.
-- A batch is confirmed once all its lines are that still count.
ALTER TABLE line ADD COLUMN confirmed_at TEXT;
ALTER TABLE line ADD COLUMN confirmed_in TEXT;
ALTER TABLE batch ADD COLUMN confirmed_at TEXT;
CREATE INDEX line_unconfirmed ON line (institution, batch_id) WHERE state = 'sent' AND confirmed_at IS NULL;

-- kind: payments, or items (the list of items). written_at: when the far side wrote the file.
-- complete 1: an item that the list lacks is not there.
ALTER TABLE payment_file ADD COLUMN kind TEXT NOT NULL DEFAULT 'payments';
ALTER TABLE payment_file ADD COLUMN written_at TEXT;
ALTER TABLE payment_file ADD COLUMN complete INTEGER NOT NULL DEFAULT 0;

-- What the newest list that held it says of a fee's items in PeopleSoft, all of them added up.
-- seen_at: when that file was written.
CREATE TABLE item (
    institution TEXT NOT NULL,
    fee_id TEXT NOT NULL,
    emplid TEXT NOT NULL,
    amount BIGINT NOT NULL,
    balance BIGINT,
    file_name TEXT NOT NULL,
    file_sha256 TEXT NOT NULL,
    seen_at TEXT NOT NULL,
    PRIMARY KEY (institution, fee_id)
);
CREATE INDEX item_of_emplid ON item (institution, emplid);

-- The newest list of items that was complete.
CREATE VIEW complete_list AS
SELECT institution, MAX(written_at) AS written_at
FROM payment_file
WHERE kind = 'items' AND complete = 1 AND state IN ('taken', 'archived')
GROUP BY institution;

-- The amount of each fee's items as it is known now: one that a newer complete list lacks has none.
-- told: charged - credited. unconfirmed: how many of those lines were not seen in PeopleSoft yet.
CREATE VIEW item_position AS
SELECT
    k.institution,
    k.fee_id,
    CAST(COALESCE(t.told, 0) AS BIGINT) AS told,
    COALESCE(t.unconfirmed, 0) AS unconfirmed,
    CASE WHEN i.seen_at >= COALESCE(c.written_at, '') THEN 1 ELSE 0 END AS present,
    CAST(CASE WHEN i.seen_at >= COALESCE(c.written_at, '') THEN i.amount ELSE 0 END AS BIGINT) AS amount,
    CASE WHEN i.seen_at >= COALESCE(c.written_at, '') THEN i.seen_at ELSE c.written_at END AS as_of,
    i.emplid,
    i.balance,
    i.file_name,
    i.amount AS last_amount,
    i.seen_at
FROM (
    SELECT institution, fee_id FROM item
    UNION
    SELECT institution, fee_id FROM line WHERE state = 'sent'
) k
LEFT JOIN item i ON i.institution = k.institution AND i.fee_id = k.fee_id
LEFT JOIN complete_list c ON c.institution = k.institution
LEFT JOIN (
    SELECT institution, fee_id, SUM(CASE WHEN kind = 'charge' THEN amount ELSE -amount END) AS told,
        SUM(CASE WHEN confirmed_at IS NULL THEN 1 ELSE 0 END) AS unconfirmed
      FROM line WHERE state = 'sent' GROUP BY institution, fee_id
) t ON t.institution = k.institution AND t.fee_id = k.fee_id;
