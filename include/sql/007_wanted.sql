-- Looked for as well: a fee on which Alma shows other payments of ours than were posted. Applied twice, a payment
-- may close a fee of which nothing is owed by the books, and nobody would look at it again.

DROP VIEW fee_wanted;

CREATE VIEW fee_wanted AS
SELECT e.institution, e.fee_id, e.user_id, e.version, e.expected
FROM fee_expected e
LEFT JOIN reading r ON r.institution = e.institution AND r.fee_id = e.fee_id
WHERE e.expected <> 0 OR e.in_flight > 0 OR r.fee_id IS NULL
   OR ((r.balance <> 0 OR r.own_paid <> e.posted) AND COALESCE(r.problem, '') <> 'user not found in Alma')
   OR EXISTS (SELECT 1 FROM exception_item x
       WHERE x.institution = e.institution AND x.fee_id = e.fee_id AND x.subject = 'fee ' || e.fee_id
         AND x.closed_at IS NULL);
