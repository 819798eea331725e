-- What people have said of an opening since, and what follows from one that never was.

-- taken_back: what of paid_before PeopleSoft has taken back and a person has dealt with, in cents.
ALTER TABLE opening_item ADD COLUMN taken_back BIGINT NOT NULL DEFAULT 0;

-- Items of the opening that stand for no fee, by their line in its file. settled_at: when a person has dealt with one.
CREATE TABLE opening_loose (
    institution TEXT NOT NULL,
    file_line INTEGER NOT NULL,
    emplid TEXT NOT NULL,
    settled_at TEXT,
    PRIMARY KEY (institution, file_line)
);

-- Several items of one fee may be in doubt together, where they were there before the books were opened.
DROP INDEX line_one_pending;
CREATE UNIQUE INDEX line_one_pending ON line (institution, fee_id) WHERE state = 'pending' AND batch_id <> '000000';

DROP VIEW payment_of_unclear_day;
DROP VIEW item_position;
DROP VIEW opening_paid;

-- The items of an opening that counts: of one that never was, as a person has said, nothing follows.
CREATE VIEW opening_item_now AS
SELECT o.*
FROM opening_item o
WHERE NOT EXISTS (SELECT 1 FROM batch b
    WHERE b.institution = o.institution AND b.batch_id = '000000' AND b.state = 'cancelled');

-- What was paid before on the items that are there: on one whose line was made void nothing, what is charged since is another.
CREATE VIEW opening_paid AS
SELECT o.institution, o.file_line, o.fee_id, o.emplid, o.paid_before - o.taken_back AS paid_before
FROM opening_item_now o
WHERE NOT EXISTS (SELECT 1 FROM line l
    WHERE l.institution = o.institution AND l.batch_id = '000000' AND l.line_no = o.line_no AND l.state = 'void');

-- amount: of an item that was there at the opening, without what was paid on it before.
CREATE VIEW item_position AS
SELECT
    k.institution,
    k.fee_id,
    CAST(COALESCE(t.charged, 0) AS BIGINT) AS charged,
    CAST(COALESCE(t.told, 0) AS BIGINT) AS told,
    COALESCE(t.unconfirmed, 0) AS unconfirmed,
    CASE WHEN i.seen_at >= COALESCE(c.written_at, '') THEN 1 ELSE 0 END AS present,
    CAST(CASE WHEN i.seen_at >= COALESCE(c.written_at, '')
              THEN i.amount - (SELECT COALESCE(SUM(o.paid_before), 0) FROM opening_paid o
                                WHERE o.institution = k.institution AND o.fee_id = k.fee_id)
              ELSE 0 END AS BIGINT) AS amount,
    CASE WHEN i.seen_at >= COALESCE(c.written_at, '') THEN i.seen_at ELSE c.written_at END AS as_of,
    i.emplid,
    i.balance,
    i.file_name,
    i.amount AS last_amount,
    i.seen_at
FROM (
    SELECT institution, fee_id FROM item
    UNION
    SELECT institution, item_fee FROM line WHERE state = 'sent'
) k
LEFT JOIN item i ON i.institution = k.institution AND i.fee_id = k.fee_id
LEFT JOIN complete_list c ON c.institution = k.institution
LEFT JOIN (
    SELECT institution, item_fee, SUM(CASE WHEN kind = 'charge' THEN amount ELSE 0 END) AS charged,
        SUM(CASE WHEN kind = 'charge' THEN amount WHEN credit_item = 1 THEN 0 ELSE -amount END) AS told,
        SUM(CASE WHEN confirmed_at IS NULL AND credit_item = 0 THEN 1 ELSE 0 END) AS unconfirmed
      FROM line WHERE state = 'sent' GROUP BY institution, item_fee
) t ON t.institution = k.institution AND t.item_fee = k.fee_id;

-- Payments of which nothing tells whether the items' balances had taken them in when the books were opened.
CREATE VIEW payment_of_unclear_day AS
SELECT p.institution, p.payment_key
FROM payment p
JOIN institution i ON i.institution = p.institution
WHERE i.payment_shape <> 'applied' AND p.state = 'new' AND p.after_opening = 0 AND p.paid_on <= i.opened_as_of
  AND EXISTS (SELECT 1 FROM opening_item_now o WHERE o.institution = p.institution AND o.fee_id = p.fee_id);
