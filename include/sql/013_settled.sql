-- What a person has settled of a payment explains a difference on its fee, as the entry did while it stood on the list.
DROP VIEW balances;
DROP VIEW fee_balance;

-- Alma's and PeopleSoft's balance of each fee, as far as they are known here. PeopleSoft can't apply
-- more to an item than it charges: what a student pays beyond that lies on his account, not on the item.
-- exceptions: those that are open, and those of payments that a person has settled.
CREATE VIEW fee_balance AS
SELECT
    p.institution,
    p.fee_id,
    r.type,
    r.balance AS alma,
    CASE WHEN p.charged + p.carried - p.credited - p.received > 0
         THEN p.charged + p.carried - p.credited - p.received ELSE 0 END AS peoplesoft,
    p.pending + (SELECT COUNT(*) FROM payment_now w
      WHERE w.institution = p.institution AND w.fee_id = p.fee_id
        AND (w.state IN ('posting', 'unknown') OR (w.state = 'new' AND w.stands > 0))) AS on_its_way,
    (SELECT COUNT(*) FROM exception_item x
      WHERE x.institution = p.institution AND x.fee_id = p.fee_id
        AND (x.closed_at IS NULL OR (x.standing = 1 AND x.payment_key IS NOT NULL))) AS exceptions
FROM fee_position p
JOIN reading r ON r.institution = p.institution AND r.fee_id = p.fee_id
WHERE NOT (COALESCE(r.problem, '') = 'user not found in Alma'
    AND p.charged + p.carried - p.credited - p.posted = 0);

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
