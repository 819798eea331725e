-- What a large ledger's plan and report write no more: an index for each line, and one for each row of a report.

-- The fee whose item a line is about comes with the line; nothing is looked for by its reference.
DROP INDEX line_of_reference;

-- A report's rows between its reading and its comparison, as they came: one report at a time, a fee in any number of rows.
-- differs 1: its account has to be read.
DROP TABLE reported_fee;
CREATE TABLE reported_fee (
    institution TEXT NOT NULL,
    fee_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    balance BIGINT NOT NULL,
    differs INTEGER NOT NULL DEFAULT 0
);

-- What fee_expected says of each fee, for all at once; a fee without any has no row. That one is for a few fees.
CREATE VIEW expected_sums AS
SELECT institution, fee_id, CAST(SUM(cents) AS BIGINT) AS expected
FROM (
    SELECT institution, fee_id, CASE kind WHEN 'charge' THEN amount ELSE -amount END AS cents
      FROM line WHERE state = 'sent'
    UNION ALL
    SELECT institution, to_fee, amount FROM carry
    UNION ALL
    SELECT institution, posted_to, -posted FROM payment WHERE state = 'posted'
) e
GROUP BY institution, fee_id;
