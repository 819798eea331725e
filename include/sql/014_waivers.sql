-- What PeopleSoft waived or wrote off, and is waived in Alma for it.

-- waive: Alma's code of the reason; without it the row is a payment.
ALTER TABLE payment ADD COLUMN waive TEXT;
-- When Alma was first seen to give our key back in a waiver's comment.
ALTER TABLE institution ADD COLUMN waiver_seen_at TEXT;
