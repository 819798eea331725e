-- What PeopleSoft waived or wrote off, and is waived in Alma for it.

-- waive: Alma's code of the reason; without it the row is a payment.
ALTER TABLE payment ADD COLUMN waive TEXT;
-- others_waived: cents waived on the fee in that reading without a key of ours.
ALTER TABLE reading ADD COLUMN others_waived BIGINT NOT NULL DEFAULT 0;
-- When Alma was first seen to give our key back in a waiver's comment.
ALTER TABLE institution ADD COLUMN waiver_seen_at TEXT;
