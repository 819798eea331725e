-- What a ledger of a million fees needs: sums over all fees in one pass, and the report's differing fees found once.

-- differs 1: its account has to be read.
ALTER TABLE reported_fee ADD COLUMN differs INTEGER NOT NULL DEFAULT 0;

-- Lines that a plan looks for among all of a fee's, and that are few.
CREATE INDEX line_unseen ON line (institution, fee_id)
    WHERE state = 'sent' AND kind = 'charge' AND confirmed_at IS NULL;
CREATE INDEX line_given_up ON line (institution, fee_id) WHERE state IN ('void', 'dropped');

-- The sums of fee_position for all fees at once; that one is for a few fees.
CREATE VIEW fee_sums AS
SELECT
    institution,
    fee_id,
    CAST(SUM(charged) AS BIGINT) AS charged,
    CAST(SUM(credited) AS BIGINT) AS credited,
    SUM(pending) AS pending,
    CAST(SUM(received) AS BIGINT) AS received,
    CAST(SUM(posted) AS BIGINT) AS posted,
    SUM(waiting) AS waiting
FROM (
    SELECT institution, fee_id,
        CASE WHEN state = 'sent' AND kind = 'charge' THEN amount ELSE 0 END AS charged,
        CASE WHEN state = 'sent' AND kind = 'credit' THEN amount ELSE 0 END AS credited,
        CASE WHEN state = 'pending' THEN 1 ELSE 0 END AS pending,
        0 AS received, 0 AS posted, 0 AS waiting
      FROM line WHERE state IN ('sent', 'pending')
    UNION ALL
    SELECT institution, to_fee, amount, 0, 0, 0, 0, 0 FROM carry
    UNION ALL
    SELECT institution, fee_id, 0, 0, 0, received, CASE WHEN state = 'posted' THEN posted ELSE 0 END,
        CASE WHEN state IN ('posting', 'unknown') OR (state = 'new' AND stands > 0) THEN 1 ELSE 0 END
      FROM payment_now WHERE fee_id IS NOT NULL
) e
GROUP BY institution, fee_id;

DROP VIEW balances;
DROP VIEW fee_balance;

-- Alma's and PeopleSoft's balance of each fee, as far as they are known here. PeopleSoft can't apply
-- more to an item than it charges: what a student pays beyond that lies on his account, not on the item.
-- charged includes what an older item in PeopleSoft stands in for. exceptions: those that are open, and those of
-- payments that a person has settled, whose word explains the difference as the entry did.
CREATE VIEW fee_balance AS
SELECT
    r.institution,
    r.fee_id,
    r.type,
    r.balance AS alma,
    CASE WHEN COALESCE(s.charged - s.credited - s.received, 0) > 0
         THEN s.charged - s.credited - s.received ELSE 0 END AS peoplesoft,
    COALESCE(s.pending + s.waiting, 0) AS on_its_way,
    COALESCE(x.exceptions, 0) AS exceptions
FROM reading r
LEFT JOIN fee_sums s ON s.institution = r.institution AND s.fee_id = r.fee_id
LEFT JOIN (
    SELECT institution, fee_id, COUNT(*) AS exceptions
      FROM exception_item WHERE closed_at IS NULL OR (standing = 1 AND payment_key IS NOT NULL)
     GROUP BY institution, fee_id
) x ON x.institution = r.institution AND x.fee_id = r.fee_id
WHERE NOT (COALESCE(r.problem, '') = 'user not found in Alma'
    AND COALESCE(s.charged - s.credited - s.posted, 0) = 0);

-- The balances line of a run. A CREDIT fee is never PeopleSoft's, listed or not.
CREATE VIEW balances AS
SELECT
    institution,
    COUNT(*) AS fees,
    CAST(COALESCE(SUM(alma), 0) AS BIGINT) AS alma,
    CAST(COALESCE(SUM(peoplesoft), 0) AS BIGINT) AS peoplesoft,
    CAST(COALESCE(SUM(CASE WHEN why = 'explained' THEN alma - peoplesoft ELSE 0 END), 0) AS BIGINT) AS explained,
    CAST(COALESCE(SUM(CASE WHEN why = 'on its way' THEN alma - peoplesoft ELSE 0 END), 0) AS BIGINT) AS on_its_way,
    CAST(COALESCE(SUM(CASE WHEN why = 'unexplained' THEN alma - peoplesoft ELSE 0 END), 0) AS BIGINT) AS unexplained
FROM (
    SELECT institution, alma, peoplesoft,
        CASE WHEN exceptions > 0 OR type = 'CREDIT' THEN 'explained'
             WHEN on_its_way > 0 THEN 'on its way' ELSE 'unexplained' END AS why
      FROM fee_balance
) b
GROUP BY institution;
