-- What a plan of a large run looks for, and writes, lies closer together.

-- own_payments: the payments in a reading that carry our key, in the payload's order, each as "KEY=cents ".
ALTER TABLE reading ADD COLUMN own_payments TEXT NOT NULL DEFAULT '';
CREATE TABLE told (
    institution TEXT NOT NULL,
    fee_id TEXT NOT NULL,
    place INTEGER NOT NULL,
    payments TEXT NOT NULL,
    PRIMARY KEY (institution, fee_id, place)
);
INSERT INTO told
WITH RECURSIVE t (institution, fee_id, place, payments) AS (
    SELECT institution, fee_id, place, external_id || '=' || amount || ' ' FROM reading_payment WHERE place = 0
    UNION ALL
    SELECT q.institution, q.fee_id, q.place, t.payments || q.external_id || '=' || q.amount || ' '
    FROM t JOIN reading_payment q ON q.institution = t.institution AND q.fee_id = t.fee_id AND q.place = t.place + 1
)
SELECT institution, fee_id, place, payments FROM t;
UPDATE reading SET own_payments = (SELECT t.payments FROM told t
    WHERE t.institution = reading.institution AND t.fee_id = reading.fee_id ORDER BY t.place DESC LIMIT 1)
WHERE EXISTS (SELECT 1 FROM told t WHERE t.institution = reading.institution AND t.fee_id = reading.fee_id);
DROP TABLE told;

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
                 AND p.waive IS NOT NULL AND REPLACE(r.own_payments, p.external_id || '=', '') = r.own_payments)))))
   OR EXISTS (SELECT 1 FROM exception_item x
       WHERE x.institution = e.institution AND x.fee_id = e.fee_id AND x.subject = 'fee ' || e.fee_id
         AND x.closed_at IS NULL);
DROP TABLE reading_payment;

-- Lines that were sent are found by their item; the few others have an index of their own, so that a plan need not look for
-- the place of each of its lines among all that ever were.
DROP INDEX line_of_item;
CREATE INDEX line_of_item ON line (institution, item_fee) WHERE state = 'sent';
CREATE INDEX line_of_item_unsent ON line (institution, item_fee) WHERE state <> 'sent';

-- Of indexes that serve alike SQLite takes the newest: those with few lines.
DROP INDEX line_unconfirmed;
CREATE INDEX line_unconfirmed ON line (institution, batch_id) WHERE state = 'sent' AND confirmed_at IS NULL;
DROP INDEX line_unseen;
CREATE INDEX line_unseen ON line (institution, fee_id)
    WHERE state = 'sent' AND kind = 'charge' AND confirmed_at IS NULL;
