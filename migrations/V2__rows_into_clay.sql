-- Rows into Clay: what was sent, under which webhook URL it counts, and what came back (docs/adr/0017-rows-into-clay.md).

-- One record for a Clay table. Its id travels as `claygate_id`. Two kinds, told apart by `callback_id`:
-- a row that was handed in (POST /v1/rows, `claygate send`) has deliveries by its own id (`deliveries.row_id`) and, until
-- retention removes it, its object as `body`; a row that a rule made of a callback has the id of its delivery, and no body.
ALTER TABLE claygate.rows
    ADD COLUMN callback_id uuid,
    -- Hash of what makes the row the same row again; repeats of it are not stored.
    ADD COLUMN key         bytea,
    ADD COLUMN key_kind    text,
    ADD COLUMN body        bytea,
    -- The request or file it came with, and where in it.
    ADD COLUMN batch_id    uuid,
    ADD COLUMN line        bigint,
    -- The webhook URL (`clay_webhooks.webhook`) under which its last submission was counted, before it was made.
    ADD COLUMN webhook     text,
    -- When Clay took it; until when it should be back; when and with which callback it first came back.
    ADD COLUMN sent_at     timestamptz,
    ADD COLUMN expected_at timestamptz,
    ADD COLUMN returned_at timestamptz,
    ADD COLUMN returned_by uuid,
    ADD CONSTRAINT rows_key_is_sha256 CHECK (octet_length(key) = 32 AND (key IS NULL) = (key_kind IS NULL)),
    ADD CONSTRAINT rows_key_kind_known CHECK (key_kind IN ('header', 'pointer', 'content', 'line')),
    ADD CONSTRAINT rows_made_by_a_rule_have_no_key CHECK (callback_id IS NULL OR key IS NULL),
    ADD CONSTRAINT rows_line_in_a_batch CHECK (line IS NULL OR batch_id IS NOT NULL),
    ADD CONSTRAINT rows_returned_by_a_callback CHECK ((returned_at IS NULL) = (returned_by IS NULL));
ALTER TABLE claygate.rows SET (fillfactor = 80);
CREATE UNIQUE INDEX rows_once ON claygate.rows (destination, key) WHERE key IS NOT NULL;
CREATE INDEX rows_outstanding ON claygate.rows (destination, sent_at, id) WHERE sent_at IS NOT NULL AND returned_at IS NULL;
CREATE INDEX rows_sent ON claygate.rows (destination, sent_at, id) WHERE sent_at IS NOT NULL;
CREATE INDEX rows_batch ON claygate.rows (batch_id, line) WHERE batch_id IS NOT NULL;
-- Callbacks by the row they came back from.
CREATE INDEX callbacks_row ON claygate.callbacks (row_id, received_at) WHERE row_id IS NOT NULL;

-- One request of rows, or one file sent.
CREATE TABLE claygate.row_batches (
    id          uuid        NOT NULL CONSTRAINT row_batches_pkey PRIMARY KEY,
    destination text        NOT NULL,
    -- `http`, or the name of the file.
    name        text        NOT NULL,
    -- SHA-256 of the file and of how it was read: the same file again goes on with its batch.
    digest      bytea,
    -- Lines before it are durable or refused.
    next_line   bigint      NOT NULL DEFAULT 0,
    accepted    bigint      NOT NULL DEFAULT 0,
    duplicates  bigint      NOT NULL DEFAULT 0,
    filtered    bigint      NOT NULL DEFAULT 0,
    refused     bigint      NOT NULL DEFAULT 0,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX row_batches_once ON claygate.row_batches (destination, digest) WHERE digest IS NOT NULL;

-- A webhook URL of a Clay table, named by a hash of it; the URL is a secret. `used` counts submissions that Clay took or
-- may have taken: it is raised before a request and lowered after an answer that says no.
CREATE TABLE claygate.clay_webhooks (
    webhook       text        NOT NULL CONSTRAINT clay_webhooks_pkey PRIMARY KEY,
    destination   text        NOT NULL,
    used          bigint      NOT NULL DEFAULT 0,
    state         text        NOT NULL DEFAULT 'active',
    reason        text,
    since         timestamptz NOT NULL DEFAULT now(),
    first_used_at timestamptz,
    CONSTRAINT clay_webhooks_used_counts CHECK (used >= 0),
    CONSTRAINT clay_webhooks_state_known CHECK (state IN ('active', 'paused', 'full', 'dead')),
    CONSTRAINT clay_webhooks_reason_unless_active CHECK ((state = 'active') = (reason IS NULL))
) WITH (fillfactor = 50);

-- Submissions per URL and day (UTC), for the forecast.
CREATE TABLE claygate.clay_usage (
    webhook text   NOT NULL,
    day     date   NOT NULL,
    n       bigint NOT NULL,
    CONSTRAINT clay_usage_pkey PRIMARY KEY (webhook, day)
) WITH (fillfactor = 50);

-- What a filter of a destination holds back for a row that was sent before names that row's delivery, as a cool-down does.
ALTER TABLE claygate.deliveries
    DROP CONSTRAINT deliveries_blocked_by_cool_down,
    ADD CONSTRAINT deliveries_blocked_by_an_earlier_one
        CHECK (blocked_by IS NULL OR (state = 'skipped' AND reason IN ('cool_down', 'duplicate_row')));
