-- What a campus rules: credits with an item type of their own, how files are called, which fees are charged at all.

-- credit_item 1: PeopleSoft makes this credit an item that pays the charge of its reference.
ALTER TABLE line ADD COLUMN credit_item INTEGER NOT NULL DEFAULT 0;

-- sent_as: the name under which PeopleSoft gets the file, where it is another than file_name, and always the same.
-- done_name: of an empty file that follows it; done_at: when that was put there.
ALTER TABLE batch ADD COLUMN sent_as TEXT;
ALTER TABLE batch ADD COLUMN done_name TEXT;
ALTER TABLE batch ADD COLUMN done_at TEXT;

-- told: what the lines make of the charge's own item, which a credit item changes in nothing, so that nothing shows
-- there whether it came.
DROP VIEW item_position;
CREATE VIEW item_position AS
SELECT
    k.institution,
    k.fee_id,
    CAST(COALESCE(t.charged, 0) AS BIGINT) AS charged,
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

-- made_at: when Alma made the fee. user_group: its user's, where the settings ask for it.
ALTER TABLE reading ADD COLUMN made_at TEXT;
ALTER TABLE reading ADD COLUMN user_group TEXT;
ALTER TABLE dry_reading ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE dry_reading ADD COLUMN made_at TEXT;
ALTER TABLE dry_reading ADD COLUMN user_group TEXT;

-- Fees that the settings leave out: looked at again when the balance is another, on the day until (a day of the
-- campus, or none), when the rules are others, and once a week. It says nothing of a fee that was charged.
CREATE TABLE left_out (
    institution TEXT NOT NULL,
    fee_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    balance BIGINT NOT NULL,
    until TEXT,
    rules TEXT NOT NULL,
    PRIMARY KEY (institution, fee_id)
);
