-- The brake: batches that are set aside until a person answers, and the reports whose size is compared.

-- A batch in state held (or, in a rehearsal, one that would be). why: the limits it is beyond.
-- answer: released or refused, digest: of the lines that were released. The released batch itself is
-- never sent: its lines, found again in fresh readings, may pass the brake.
CREATE TABLE batch_hold (
    institution TEXT NOT NULL,
    batch_id TEXT NOT NULL,
    why TEXT NOT NULL,
    answer TEXT CHECK (answer IN ('released', 'refused')),
    answered_at TEXT,
    answered_by TEXT,
    answer_reason TEXT,
    digest TEXT,
    PRIMARY KEY (institution, batch_id)
);
CREATE INDEX batch_hold_answer ON batch_hold (institution, answer, answered_at);

-- How many fees each live report showed. accepted 0: suddenly fewer than last_fees, the last accepted one's,
-- so later reports are not compared with it unless a person releases a batch of its run.
CREATE TABLE report_taken (
    institution TEXT NOT NULL,
    run_id TEXT NOT NULL,
    taken_at TEXT NOT NULL,
    fees INTEGER NOT NULL,
    last_fees INTEGER,
    accepted INTEGER NOT NULL,
    PRIMARY KEY (institution, run_id)
);
