-- Payments that PeopleSoft took back, and the fees that library staff made anew for them.
-- A payment's own amount never changes.

-- What was taken back of a payment, one row each time.
-- state: seen_once (in one file, nothing follows from it yet), standing (in a second file too), settled (a person
-- has dealt with it), withdrawn (the payment is back).
-- covered: what covered_by, another payment on the fee that is therefore not posted, stands in for.
-- settled: what a person has dealt with, so that PeopleSoft's item counts as paid again.
-- first_file and second_file: where the payment was missing or lower.
CREATE TABLE reversal (
    institution TEXT NOT NULL,
    reversal_id TEXT NOT NULL,
    payment_key TEXT NOT NULL,
    amount BIGINT NOT NULL CHECK (amount > 0),
    covered BIGINT NOT NULL DEFAULT 0,
    covered_by TEXT,
    settled BIGINT NOT NULL DEFAULT 0,
    state TEXT NOT NULL,
    first_file TEXT NOT NULL,
    first_written_at TEXT NOT NULL,
    second_file TEXT,
    found_at TEXT NOT NULL,
    changed_at TEXT NOT NULL,
    PRIMARY KEY (institution, reversal_id),
    CHECK (covered + settled <= amount)
);
CREATE INDEX reversal_of_payment ON reversal (institution, payment_key);
CREATE UNIQUE INDEX reversal_one_seen ON reversal (institution, payment_key) WHERE state = 'seen_once';

-- A fee that staff made anew in Alma (to_fee), for what was taken back of from_fee: PeopleSoft's item of item_fee,
-- on which the money is owed again, stands for it. item_fee is from_fee, or the fee that from_fee itself was made anew for.
CREATE TABLE carry (
    institution TEXT NOT NULL,
    to_fee TEXT NOT NULL,
    from_fee TEXT NOT NULL,
    item_fee TEXT NOT NULL,
    amount BIGINT NOT NULL CHECK (amount > 0),
    reversal_id TEXT NOT NULL,
    carried_at TEXT NOT NULL,
    carried_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (institution, to_fee)
);
CREATE INDEX carry_of_item ON carry (institution, item_fee);

-- posted_to: the fee that a payment belongs to in Alma, mostly the one it was paid on.
ALTER TABLE payment ADD COLUMN posted_to TEXT;
UPDATE payment SET posted_to = fee_id;
CREATE INDEX payment_posted_to ON payment (institution, posted_to);

-- item_fee: the fee whose item in PeopleSoft a line is about. Lines about a fee made anew bear the older reference.
ALTER TABLE line ADD COLUMN item_fee TEXT;
UPDATE line SET item_fee = fee_id;
CREATE INDEX line_of_item ON line (institution, item_fee);
CREATE INDEX line_of_reference ON line (institution, reference);

DROP VIEW balances;
DROP VIEW fee_balance;
DROP VIEW unposted;
DROP VIEW fee_wanted;
DROP VIEW fee_expected;
DROP VIEW fee_position;
DROP VIEW item_position;

-- Each payment as PeopleSoft has it now. fee_id: where it belongs in Alma, reported_fee_id: what it was paid on.
-- stands: its amount less what was taken back, all of it that may be in Alma.
-- received: what counts as paid on PeopleSoft's item.
CREATE VIEW payment_now AS
SELECT
    p.institution, p.payment_key, p.payment_no, p.external_id,
    p.posted_to AS fee_id,
    p.fee_id AS reported_fee_id,
    p.emplid, p.amount, p.paid_on, p.file_name, p.file_sha256, p.line_no, p.taken_at, p.run_id, p.state, p.posted,
    p.trying, p.marked_at, p.attempts, p.code, p.tracking_id,
    CAST(p.amount - (SELECT COALESCE(SUM(v.amount), 0) FROM reversal v
      WHERE v.institution = p.institution AND v.payment_key = p.payment_key
        AND v.state IN ('standing', 'settled')) AS BIGINT) AS stands,
    CAST(p.amount - (SELECT COALESCE(SUM(v.amount - v.settled), 0) FROM reversal v
      WHERE v.institution = p.institution AND v.payment_key = p.payment_key
        AND v.state IN ('standing', 'settled')) AS BIGINT) AS received
FROM payment p;

-- charged C, credited K, posted: what Pa should show, received: what PeopleSoft says was paid.
-- carried: what an older item in PeopleSoft stands in for, as if it had been charged.
CREATE VIEW fee_position AS
SELECT
    f.institution,
    f.fee_id,
    f.user_id,
    f.version,
    (SELECT CAST(COALESCE(SUM(l.amount), 0) AS BIGINT) FROM line l
      WHERE l.institution = f.institution AND l.fee_id = f.fee_id
        AND l.state = 'sent' AND l.kind = 'charge') AS charged,
    (SELECT CAST(COALESCE(SUM(c.amount), 0) AS BIGINT) FROM carry c
      WHERE c.institution = f.institution AND c.to_fee = f.fee_id) AS carried,
    (SELECT CAST(COALESCE(SUM(l.amount), 0) AS BIGINT) FROM line l
      WHERE l.institution = f.institution AND l.fee_id = f.fee_id
        AND l.state = 'sent' AND l.kind = 'credit') AS credited,
    (SELECT COUNT(*) FROM line l
      WHERE l.institution = f.institution AND l.fee_id = f.fee_id AND l.state = 'pending') AS pending,
    (SELECT CAST(COALESCE(SUM(p.received), 0) AS BIGINT) FROM payment_now p
      WHERE p.institution = f.institution AND p.fee_id = f.fee_id) AS received,
    (SELECT CAST(COALESCE(SUM(p.posted), 0) AS BIGINT) FROM payment_now p
      WHERE p.institution = f.institution AND p.fee_id = f.fee_id AND p.state = 'posted') AS posted,
    (SELECT COUNT(*) FROM payment_now p
      WHERE p.institution = f.institution AND p.fee_id = f.fee_id
        AND p.state IN ('posting', 'unknown')) AS in_flight
FROM fee f;

-- expected: what Alma's balance is if nothing happened but what both sides know.
CREATE VIEW fee_expected AS
SELECT p.*, p.charged + p.carried - p.credited - p.posted AS expected
FROM fee_position p;

-- Fees that have to be looked for by name when their account is read: what is open, and what stands on the list of
-- exceptions, so that the list is never older than the last reading. One of an account that is gone is looked for only
-- where PeopleSoft still has something of it: nothing else could ever be done about its fees.
CREATE VIEW fee_wanted AS
SELECT e.institution, e.fee_id, e.user_id, e.version, e.expected
FROM fee_expected e
LEFT JOIN reading r ON r.institution = e.institution AND r.fee_id = e.fee_id
WHERE e.expected <> 0 OR e.in_flight > 0 OR r.fee_id IS NULL
   OR (r.balance <> 0 AND COALESCE(r.problem, '') <> 'user not found in Alma')
   OR EXISTS (SELECT 1 FROM exception_item x
       WHERE x.institution = e.institution AND x.fee_id = e.fee_id AND x.subject = 'fee ' || e.fee_id
         AND x.closed_at IS NULL);

-- What students paid on a fee that is not in Alma, and the credits delivered since the first of it.
CREATE VIEW unposted AS
SELECT
    u.institution,
    u.fee_id,
    u.unposted,
    (SELECT CAST(COALESCE(SUM(l.amount), 0) AS BIGINT)
       FROM line l JOIN batch b ON b.institution = l.institution AND b.batch_id = l.batch_id
      WHERE l.institution = u.institution AND l.fee_id = u.fee_id AND l.state = 'sent' AND l.kind = 'credit'
        AND b.delivered_at > u.since) AS credited_since
FROM (
    SELECT institution, fee_id, CAST(SUM(stands - posted) AS BIGINT) AS unposted, MIN(taken_at) AS since
      FROM payment_now
     WHERE stands > posted AND state IN ('new', 'posted')
     GROUP BY institution, fee_id
) u;

-- Alma's and PeopleSoft's balance of each fee, as far as they are known here. PeopleSoft can't apply
-- more to an item than it charges: what a student pays beyond that lies on his account, not on the item.
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
      WHERE x.institution = p.institution AND x.fee_id = p.fee_id AND x.closed_at IS NULL) AS exceptions
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

-- The amount of each fee's items as it is known now: one that a newer complete list lacks has none.
-- charged C, told: C - K. unconfirmed: how many of those lines were not seen in PeopleSoft yet.
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
        SUM(CASE WHEN kind = 'charge' THEN amount ELSE -amount END) AS told,
        SUM(CASE WHEN confirmed_at IS NULL THEN 1 ELSE 0 END) AS unconfirmed
      FROM line WHERE state = 'sent' GROUP BY institution, item_fee
) t ON t.institution = k.institution AND t.item_fee = k.fee_id;
