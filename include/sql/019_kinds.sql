-- What PeopleSoft's lines say that they are is kept: the settings say what that means for as long as the payment waits.

-- kind: of its line, as PeopleSoft calls it. waive may be empty from here on: a waiver that a repair has found in Alma, the
-- reason of which no line has told yet.
-- A payment has one state more: dropped (it waited, and its line is that of no payment as the settings say now).
ALTER TABLE payment ADD COLUMN kind TEXT;
