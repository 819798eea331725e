-- The ledger of library fees between Alma and PeopleSoft. The same text runs on SQLite and PostgreSQL.
-- Amounts are integer cents; times are ISO-8601 UTC text, which sorts as time does.
-- Rows that mean money (line, payment) are never deleted and their amounts never change: only their
-- state does, and each change is an event.

CREATE TABLE migration (
    version INTEGER PRIMARY KEY,
    file TEXT NOT NULL,
    applied_at TEXT NOT NULL
);

-- One row an institution. payment_shape: how its payments are told apart, fixed with the first.
-- Every write begins by touching its row, so writes to one institution's
-- books happen one after another on PostgreSQL too.
CREATE TABLE institution (
    institution TEXT PRIMARY KEY,
    ledger_id TEXT NOT NULL,
    opened_at TEXT,
    opened_by TEXT,
    canary_at TEXT,
    payment_shape TEXT,
    last_batch BIGINT NOT NULL DEFAULT 0,
    last_preview BIGINT NOT NULL DEFAULT 0,
    last_payment BIGINT NOT NULL DEFAULT 0,
    writes BIGINT NOT NULL DEFAULT 0
);

-- Who may act in one direction (out: charges, back: payments). A higher token fences off the older holder.
CREATE TABLE lease (
    institution TEXT NOT NULL,
    direction TEXT NOT NULL,
    token BIGINT NOT NULL,
    owner TEXT,
    run_id TEXT,
    expires_at TEXT,
    PRIMARY KEY (institution, direction)
);

-- version grows with every change to the fee's lines or payments: a reading made before such a change is stale.
CREATE TABLE fee (
    institution TEXT NOT NULL,
    fee_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    version BIGINT NOT NULL DEFAULT 0,
    first_seen_at TEXT NOT NULL,
    PRIMARY KEY (institution, fee_id)
);
CREATE INDEX fee_of_user ON fee (institution, user_id);

-- The newest reading of each fee in Alma. problem: why nothing may be concluded from it.
CREATE TABLE reading (
    institution TEXT NOT NULL,
    fee_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    read_at TEXT NOT NULL,
    fee_version BIGINT NOT NULL,
    emplid TEXT,
    status TEXT NOT NULL,
    type TEXT NOT NULL,
    owner TEXT NOT NULL,
    currency TEXT,
    original BIGINT NOT NULL,
    balance BIGINT NOT NULL,
    own_paid BIGINT NOT NULL,
    reason TEXT NOT NULL,
    problem TEXT,
    PRIMARY KEY (institution, fee_id)
);
CREATE INDEX reading_of_run ON reading (institution, run_id);

-- The payments in that reading that carry our key, in the payload's order.
CREATE TABLE reading_payment (
    institution TEXT NOT NULL,
    fee_id TEXT NOT NULL,
    place INTEGER NOT NULL,
    external_id TEXT NOT NULL,
    amount BIGINT NOT NULL,
    PRIMARY KEY (institution, fee_id, place)
);

-- Accounts still to be read live. A row goes when a plan has considered its reading, so an abandoned
-- run leaves its accounts to the next one. live 0: rehearsals have a list of their own.
CREATE TABLE account_to_read (
    institution TEXT NOT NULL,
    live INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    why TEXT NOT NULL,
    added_at TEXT NOT NULL,
    added_run TEXT NOT NULL,
    read_run TEXT,
    PRIMARY KEY (institution, live, user_id)
);

-- A report as it came in, until its fees are nominated.
CREATE TABLE reported_fee (
    institution TEXT NOT NULL,
    run_id TEXT NOT NULL,
    fee_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    balance BIGINT NOT NULL,
    PRIMARY KEY (institution, run_id, fee_id)
);

-- Files of Alma's SIS profile that were taken in.
CREATE TABLE export_file (
    institution TEXT NOT NULL,
    live INTEGER NOT NULL,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    accounts INTEGER NOT NULL,
    taken_at TEXT NOT NULL,
    run_id TEXT NOT NULL,
    PRIMARY KEY (institution, live, name, sha256)
);

-- One batch is one SFS file of one kind (charges or credits).
-- state: planned, written, uploading, uploaded, renaming, delivered; unconfirmed (a person decides),
-- cancelled; preview (a rehearsal, never sent).
CREATE TABLE batch (
    institution TEXT NOT NULL,
    batch_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    run_id TEXT NOT NULL,
    created_at TEXT NOT NULL,
    changed_at TEXT NOT NULL,
    layout TEXT NOT NULL,
    file_name TEXT NOT NULL,
    file_date TEXT NOT NULL,
    target TEXT NOT NULL,
    directory TEXT NOT NULL,
    line_count INTEGER NOT NULL,
    total BIGINT NOT NULL,
    sha256 TEXT,
    temporary TEXT,
    acknowledged_at TEXT,
    uploaded_at TEXT,
    delivered_at TEXT,
    PRIMARY KEY (institution, batch_id)
);
CREATE INDEX batch_state ON batch (institution, state);

CREATE TABLE batch_file (
    institution TEXT NOT NULL,
    batch_id TEXT NOT NULL,
    content BYTEA NOT NULL,
    PRIMARY KEY (institution, batch_id)
);

-- A charge or credit. state: pending (not yet delivered), sent, dropped, preview.
CREATE TABLE line (
    institution TEXT NOT NULL,
    batch_id TEXT NOT NULL,
    line_no INTEGER NOT NULL,
    fee_id TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('charge', 'credit')),
    amount BIGINT NOT NULL CHECK (amount > 0),
    emplid TEXT NOT NULL,
    item_type TEXT NOT NULL,
    term TEXT NOT NULL,
    reference TEXT NOT NULL,
    description TEXT NOT NULL,
    account_type TEXT NOT NULL,
    effective_date TEXT NOT NULL,
    due_date TEXT NOT NULL,
    reason TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (institution, batch_id, line_no)
);
CREATE INDEX line_of_fee ON line (institution, fee_id);
CREATE UNIQUE INDEX line_one_pending ON line (institution, fee_id) WHERE state = 'pending';

-- PeopleSoft's query output, as it was fetched.
-- state: found, taken, archived; refused, withdrawn (refused, and gone from the folder since).
CREATE TABLE payment_file (
    institution TEXT NOT NULL,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    state TEXT NOT NULL,
    content BYTEA NOT NULL,
    lines INTEGER NOT NULL DEFAULT 0,
    lines_new INTEGER NOT NULL DEFAULT 0,
    lines_refused INTEGER NOT NULL DEFAULT 0,
    found_at TEXT NOT NULL,
    run_id TEXT NOT NULL,
    PRIMARY KEY (institution, name, sha256)
);

-- A payment that PeopleSoft reported. payment_key: what identifies it there.
-- state: new (to be posted), posting (the mark before the call), unknown (outcome unclear),
-- posted, settled (a person or a later credit settled it without a posting).
CREATE TABLE payment (
    institution TEXT NOT NULL,
    payment_key TEXT NOT NULL,
    payment_no BIGINT NOT NULL,
    external_id TEXT NOT NULL,
    fee_id TEXT,
    emplid TEXT NOT NULL,
    amount BIGINT NOT NULL CHECK (amount > 0),
    paid_on TEXT NOT NULL,
    file_name TEXT NOT NULL,
    file_sha256 TEXT NOT NULL,
    line_no INTEGER NOT NULL,
    taken_at TEXT NOT NULL,
    run_id TEXT NOT NULL,
    state TEXT NOT NULL,
    posted BIGINT NOT NULL DEFAULT 0,
    trying BIGINT NOT NULL DEFAULT 0,
    marked_at TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    code TEXT,
    tracking_id TEXT,
    PRIMARY KEY (institution, payment_key)
);
CREATE UNIQUE INDEX payment_external_id ON payment (institution, external_id);
CREATE INDEX payment_of_fee ON payment (institution, fee_id);
CREATE INDEX payment_state ON payment (institution, state);

-- What does not fit and stays listed until it does, or until a person settles it.
CREATE TABLE exception_item (
    institution TEXT NOT NULL,
    exception_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    fee_id TEXT,
    payment_key TEXT,
    amount BIGINT NOT NULL,
    detail TEXT NOT NULL,
    opened_at TEXT NOT NULL,
    opened_run TEXT NOT NULL,
    seen_at TEXT NOT NULL,
    closed_at TEXT,
    closed_by TEXT,
    resolution TEXT,
    PRIMARY KEY (institution, exception_id)
);
CREATE UNIQUE INDEX exception_one_open ON exception_item (institution, kind, subject) WHERE closed_at IS NULL;
CREATE INDEX exception_of_subject ON exception_item (institution, subject);
CREATE INDEX exception_of_fee ON exception_item (institution, fee_id);

-- Who did what, when, in which run.
CREATE TABLE event (
    institution TEXT NOT NULL,
    event_id TEXT NOT NULL,
    at TEXT NOT NULL,
    run_id TEXT NOT NULL,
    actor TEXT NOT NULL,
    subject TEXT NOT NULL,
    what TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (institution, event_id)
);
CREATE INDEX event_of_subject ON event (institution, subject);

-- charged C, credited K, posted: what Pa should show; received: what PeopleSoft says was paid.
CREATE VIEW fee_position AS
SELECT
    f.institution,
    f.fee_id,
    f.user_id,
    f.version,
    (SELECT CAST(COALESCE(SUM(l.amount), 0) AS BIGINT) FROM line l
      WHERE l.institution = f.institution AND l.fee_id = f.fee_id
        AND l.state = 'sent' AND l.kind = 'charge') AS charged,
    (SELECT CAST(COALESCE(SUM(l.amount), 0) AS BIGINT) FROM line l
      WHERE l.institution = f.institution AND l.fee_id = f.fee_id
        AND l.state = 'sent' AND l.kind = 'credit') AS credited,
    (SELECT COUNT(*) FROM line l
      WHERE l.institution = f.institution AND l.fee_id = f.fee_id AND l.state = 'pending') AS pending,
    (SELECT CAST(COALESCE(SUM(p.amount), 0) AS BIGINT) FROM payment p
      WHERE p.institution = f.institution AND p.fee_id = f.fee_id) AS received,
    (SELECT CAST(COALESCE(SUM(p.posted), 0) AS BIGINT) FROM payment p
      WHERE p.institution = f.institution AND p.fee_id = f.fee_id AND p.state = 'posted') AS posted,
    (SELECT COUNT(*) FROM payment p
      WHERE p.institution = f.institution AND p.fee_id = f.fee_id
        AND p.state IN ('posting', 'unknown')) AS in_flight
FROM fee f;

-- expected: what Alma's balance is if nothing happened but what both sides know.
CREATE VIEW fee_expected AS
SELECT p.*, p.charged - p.credited - p.posted AS expected
FROM fee_position p;

-- Fees that have to be looked for by name when their account is read.
CREATE VIEW fee_wanted AS
SELECT e.institution, e.fee_id, e.user_id, e.version, e.expected
FROM fee_expected e
LEFT JOIN reading r ON r.institution = e.institution AND r.fee_id = e.fee_id
WHERE e.expected <> 0 OR e.in_flight > 0 OR r.fee_id IS NULL
   OR (r.balance <> 0 AND r.status <> 'MISSING');

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
    SELECT institution, fee_id, CAST(SUM(amount - posted) AS BIGINT) AS unposted, MIN(taken_at) AS since
      FROM payment
     WHERE amount > posted AND state IN ('new', 'posted')
     GROUP BY institution, fee_id
) u;

-- Alma's and PeopleSoft's balance of each fee, as far as they are known here. PeopleSoft can't apply
-- more to an item than it charges: what a student pays beyond that lies on his account, not on the item.
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
JOIN reading r ON r.institution = p.institution AND r.fee_id = p.fee_id;

-- The balances line of a run.
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
