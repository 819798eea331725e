-- What PeopleSoft's lines say that they are is kept: the settings say what that means for as long as the payment waits.

-- kind: of its line, as PeopleSoft calls it. waive may be empty from here on: a waiver that a repair has found in Alma, the
-- reason of which no line has told yet.
-- A payment has one state more: dropped (it waited, and its line is that of no payment as the settings say now).
ALTER TABLE payment ADD COLUMN kind TEXT;

-- Not looked for: a fee on which Alma shows our waivers without our key, where it shows so much waived by others.
DROP VIEW fee_wanted;
CREATE VIEW fee_wanted AS
SELECT e.institution, e.fee_id, e.user_id, e.version, e.expected
FROM fee_expected e
LEFT JOIN reading r ON r.institution = e.institution AND r.fee_id = e.fee_id
WHERE e.expected <> 0 OR e.in_flight > 0
   OR (r.fee_id IS NULL AND NOT EXISTS (SELECT 1 FROM opening_item o
       WHERE o.institution = e.institution AND o.fee_id = e.fee_id))
   OR (COALESCE(r.problem, '') <> 'user not found in Alma' AND (r.balance <> 0
       OR (r.own_paid <> e.posted AND NOT (e.posted - r.own_paid BETWEEN 1 AND r.others_waived
           AND e.posted - r.own_paid = (SELECT COALESCE(SUM(p.posted), 0) FROM payment p
               WHERE p.institution = e.institution AND p.posted_to = e.fee_id AND p.state = 'posted'
                 AND p.waive IS NOT NULL AND NOT EXISTS (SELECT 1 FROM reading_payment q
                   WHERE q.institution = e.institution AND q.fee_id = e.fee_id
                     AND q.external_id = p.external_id))))))
   OR EXISTS (SELECT 1 FROM exception_item x
       WHERE x.institution = e.institution AND x.fee_id = e.fee_id AND x.subject = 'fee ' || e.fee_id
         AND x.closed_at IS NULL);
