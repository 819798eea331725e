-- Books opened from what PeopleSoft held already.

-- opened_as_of: the campus's day on which PeopleSoft was asked for the items; null: the books were opened clean, or not yet.
ALTER TABLE institution ADD COLUMN opened_as_of TEXT;

-- Items of PeopleSoft's that stand for a fee since the opening, by their line in its file. paid_before: what was applied by
-- then, in cents: neither charged nor to be posted by us.
-- reference: the item's own where it is not ours, which no other item bears; else empty.
-- line_no: its line in batch 000000; 0 where it had nothing to pay.
CREATE TABLE opening_item (
    institution TEXT NOT NULL,
    file_line INTEGER NOT NULL,
    fee_id TEXT NOT NULL,
    emplid TEXT NOT NULL,
    reference TEXT NOT NULL,
    paid_before BIGINT NOT NULL,
    line_no INTEGER NOT NULL,
    PRIMARY KEY (institution, file_line)
);
CREATE INDEX opening_item_fee ON opening_item (institution, fee_id);
CREATE INDEX opening_item_reference ON opening_item (institution, reference);

-- Fees about which nothing is sent until a person releases them.
CREATE TABLE opening_hold (
    institution TEXT NOT NULL,
    fee_id TEXT NOT NULL,
    why TEXT NOT NULL,
    released_at TEXT,
    PRIMARY KEY (institution, fee_id)
);

-- after_opening 1: a person has said that it was paid after the items were asked for.
ALTER TABLE payment ADD COLUMN after_opening INTEGER NOT NULL DEFAULT 0;

-- What was paid before on the items that are there: on one whose line was made void nothing, what is charged since is another.
CREATE VIEW opening_paid AS
SELECT o.institution, o.fee_id, o.emplid, o.paid_before
FROM opening_item o
WHERE NOT EXISTS (SELECT 1 FROM line l
    WHERE l.institution = o.institution AND l.batch_id = '000000' AND l.line_no = o.line_no AND l.state = 'void');

-- amount: of an item that was there at the opening, without what was paid on it before.
DROP VIEW item_position;
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
  AND EXISTS (SELECT 1 FROM opening_item o WHERE o.institution = p.institution AND o.fee_id = p.fee_id);

-- Not looked for: the fee of an item that was paid before, which Alma may have purged long ago.
DROP VIEW fee_wanted;
CREATE VIEW fee_wanted AS
SELECT e.institution, e.fee_id, e.user_id, e.version, e.expected
FROM fee_expected e
LEFT JOIN reading r ON r.institution = e.institution AND r.fee_id = e.fee_id
WHERE e.expected <> 0 OR e.in_flight > 0
   OR (r.fee_id IS NULL AND NOT EXISTS (SELECT 1 FROM opening_item o
       WHERE o.institution = e.institution AND o.fee_id = e.fee_id))
   OR ((r.balance <> 0 OR r.own_paid <> e.posted) AND COALESCE(r.problem, '') <> 'user not found in Alma')
   OR EXISTS (SELECT 1 FROM exception_item x
       WHERE x.institution = e.institution AND x.fee_id = e.fee_id AND x.subject = 'fee ' || e.fee_id
         AND x.closed_at IS NULL);
