-- As V12 does for callbacks. Each table in a transaction of its own: one that needed several for itself could wait for a
-- statement that waits for it.
CREATE DOMAIN claygate.intake_result AS text;
ALTER TABLE claygate.intake_counts
    ALTER COLUMN result TYPE claygate.intake_result,
    DROP CONSTRAINT intake_counts_result_known;
ALTER DOMAIN claygate.intake_result
    ADD CONSTRAINT intake_result_known CHECK (VALUE IN ('new', 'duplicate', 'conflict', 'quarantined')) NOT VALID;
