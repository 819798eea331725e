-- What PeopleSoft waived or wrote off, and is waived in Alma for it; and its lines that take payments back.

-- waive: Alma's code of the reason; without it the row is a payment.
ALTER TABLE payment ADD COLUMN waive TEXT;
-- others_waived: cents waived on the fee in that reading without a key of ours.
ALTER TABLE reading ADD COLUMN others_waived BIGINT NOT NULL DEFAULT 0;
-- When Alma was first seen to give our key back in a waiver's comment.
ALTER TABLE institution ADD COLUMN waiver_seen_at TEXT;

-- Lines of PeopleSoft's output that take a payment back, each once, in however many files it stands. line_key: made from what
-- it says, and its number among equal ones of its file.
-- netted 1: it was off the payment's amount already when that was taken in.
CREATE TABLE reversal_line (
    institution TEXT NOT NULL,
    payment_key TEXT NOT NULL,
    line_key TEXT NOT NULL,
    cents BIGINT NOT NULL,
    netted INTEGER NOT NULL,
    PRIMARY KEY (institution, payment_key, line_key)
);
