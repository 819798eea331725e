-- What dry runs of a campus that is not live have seen, so that it can be told later what would have been sent.

-- others_paid: payments on the fee in Alma that bear no key of ours, in cents.
ALTER TABLE reading ADD COLUMN others_paid BIGINT NOT NULL DEFAULT 0;

-- One row a fee whenever a dry run saw it otherwise than the one before. planned_at: when that run planned.
-- told: what PeopleSoft was told of the fee by live runs (C - K), own_paid: Pa.
-- taken_back 1: a payment of the student's is listed as taken back.
CREATE TABLE dry_reading (
    institution TEXT NOT NULL,
    fee_id TEXT NOT NULL,
    planned_at TEXT NOT NULL,
    run_id TEXT NOT NULL,
    emplid TEXT NOT NULL,
    status TEXT NOT NULL,
    type TEXT NOT NULL,
    currency TEXT,
    original BIGINT NOT NULL,
    balance BIGINT NOT NULL,
    told BIGINT NOT NULL,
    own_paid BIGINT NOT NULL,
    others_paid BIGINT NOT NULL,
    reason TEXT NOT NULL,
    problem TEXT,
    taken_back INTEGER NOT NULL,
    PRIMARY KEY (institution, fee_id, planned_at, run_id)
);
