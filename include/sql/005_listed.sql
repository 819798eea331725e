-- What stands on the list of exceptions is looked for by name each time its account is read, so that the
-- list is never older than the last reading. An account that is gone is looked for only where
-- PeopleSoft still has something of it: nothing else could ever be done about its fees.

DROP VIEW fee_wanted;
CREATE VIEW fee_wanted AS
SELECT e.institution, e.fee_id, e.user_id, e.version, e.expected
FROM fee_expected e
LEFT JOIN reading r ON r.institution = e.institution AND r.fee_id = e.fee_id
WHERE e.expected <> 0 OR e.in_flight > 0 OR r.fee_id IS NULL
   OR (r.balance <> 0 AND COALESCE(r.problem, '') <> 'user not found in Alma')
   OR EXISTS (SELECT 1 FROM exception_item x
       WHERE x.institution = e.institution AND x.fee_id = e.fee_id AND x.subject = 'fee ' || e.fee_id
         AND x.closed_at IS NULL);

DROP VIEW balances;
DROP VIEW fee_balance;
CREATE VIEW fee_balance AS
SELECT
    p.institution,
    p.fee_id,
    r.balance AS alma,
    CASE WHEN p.charged - p.credited - p.received > 0
         THEN p.charged - p.credited - p.received ELSE 0 END AS peoplesoft,
    p.pending + (SELECT COUNT(*) FROM payment w
      WHERE w.institution = p.institution AND w.fee_id = p.fee_id
        AND w.state IN ('new', 'posting', 'unknown')) AS on_its_way,
    (SELECT COUNT(*) FROM exception_item x
      WHERE x.institution = p.institution AND x.fee_id = p.fee_id AND x.closed_at IS NULL) AS exceptions
FROM fee_position p
JOIN reading r ON r.institution = p.institution AND r.fee_id = p.fee_id
WHERE NOT (COALESCE(r.problem, '') = 'user not found in Alma' AND p.charged - p.credited - p.posted = 0);

CREATE VIEW balances AS
SELECT
    institution,
    COUNT(*) AS fees,
    CAST(COALESCE(SUM(alma), 0) AS BIGINT) AS alma,
    CAST(COALESCE(SUM(peoplesoft), 0) AS BIGINT) AS peoplesoft,
    CAST(COALESCE(SUM(CASE WHEN exceptions > 0 THEN alma - peoplesoft ELSE 0 END), 0) AS BIGINT) AS explained,
    CAST(COALESCE(SUM(CASE WHEN exceptions = 0 AND on_its_way > 0 THEN alma - peoplesoft ELSE 0 END), 0) AS BIGINT)
        AS on_its_way,
    CAST(COALESCE(SUM(CASE WHEN exceptions = 0 AND on_its_way = 0 THEN alma - peoplesoft ELSE 0 END), 0) AS BIGINT)
        AS unexplained
FROM fee_balance
GROUP BY institution;
