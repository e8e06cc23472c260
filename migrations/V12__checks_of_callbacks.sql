-- What a column of its own may hold is said by its type (docs/adr/0030-checks-of-one-column.md): Postgres reads the CHECKs of a
-- table anew for each statement, those of a domain once in a session. Nothing is rewritten and nothing is read, so that
-- the table is needed for a moment only: a domain gets its CHECK when the columns have it already, and NOT VALID, since what is
-- there was checked by the table's.
CREATE DOMAIN claygate.sha256_digest AS bytea;
CREATE DOMAIN claygate.key_kind AS text;
CREATE DOMAIN claygate.callback_state AS text;
ALTER TABLE claygate.callbacks
    ALTER COLUMN key TYPE claygate.sha256_digest,
    ALTER COLUMN digest TYPE claygate.sha256_digest,
    ALTER COLUMN key_kind TYPE claygate.key_kind,
    ALTER COLUMN state TYPE claygate.callback_state,
    DROP CONSTRAINT callbacks_key_is_sha256,
    DROP CONSTRAINT callbacks_key_kind_known,
    DROP CONSTRAINT callbacks_state_known,
    -- These need two columns, so they stay. Left where they are, they would be held against every row for the new types.
    DROP CONSTRAINT callbacks_content_has_one_revision,
    DROP CONSTRAINT callbacks_reason_when_not_routed;
ALTER TABLE claygate.callbacks
    ADD CONSTRAINT callbacks_content_has_one_revision CHECK (key_kind <> 'content' OR revision = 0) NOT VALID,
    ADD CONSTRAINT callbacks_reason_when_not_routed
        CHECK ((state IN ('skipped', 'dead')) = (reason IS NOT NULL)) NOT VALID;
ALTER DOMAIN claygate.sha256_digest ADD CONSTRAINT sha256_digest_has_32_bytes CHECK (octet_length(VALUE) = 32) NOT VALID;
ALTER DOMAIN claygate.key_kind
    ADD CONSTRAINT key_kind_known CHECK (VALUE IN ('header', 'pointer', 'content')) NOT VALID;
ALTER DOMAIN claygate.callback_state
    ADD CONSTRAINT callback_state_known CHECK (VALUE IN ('received', 'routed', 'skipped', 'dead')) NOT VALID;
