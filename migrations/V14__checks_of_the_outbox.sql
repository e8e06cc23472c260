-- As V12 does for callbacks.
CREATE DOMAIN claygate.outbox_refs AS uuid[];
ALTER TABLE claygate.outbox
    ALTER COLUMN refs TYPE claygate.outbox_refs,
    DROP CONSTRAINT outbox_batch_bounded;
ALTER DOMAIN claygate.outbox_refs
    ADD CONSTRAINT outbox_refs_bounded CHECK (cardinality(VALUE) BETWEEN 1 AND 64) NOT VALID;
