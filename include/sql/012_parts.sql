-- Payments that PeopleSoft tells without naming a fee.
-- whole: the key of the payment that this row is a part of, where its lines name no fee: what the parts come to was paid at
-- once. The part that belongs to no fee yet has fee_id null and the whole's own key.
ALTER TABLE payment ADD COLUMN whole TEXT;
CREATE INDEX payment_whole ON payment (institution, whole);
