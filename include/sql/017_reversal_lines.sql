-- What a payment comes to follows from what its own line says and all lines that ever took it back.

-- gross: what its own line said when it was taken in. Null: its amount, as no line took anything off it then.
ALTER TABLE payment ADD COLUMN gross BIGINT;
UPDATE payment SET gross = amount + (SELECT CAST(SUM(r.cents) AS BIGINT) FROM reversal_line r
    WHERE r.institution = payment.institution AND r.payment_key = payment.payment_key AND r.netted = 1)
WHERE EXISTS (SELECT 1 FROM reversal_line r
    WHERE r.institution = payment.institution AND r.payment_key = payment.payment_key AND r.netted = 1);

-- text_key: as line_key, made from the day as the file writes it: it stays when the day is read otherwise.
-- netted tells nothing any more: gross does.
ALTER TABLE reversal_line ADD COLUMN text_key TEXT;

-- A person's word on a payment that one file alone showed lower settles it now. What was said before did not: should that
-- line come again, it is listed again.
UPDATE exception_item SET standing = 0 WHERE kind = 'payment with another amount' AND amount < 0;
