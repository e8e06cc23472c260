-- What workers know of their webhook URLs, for whoever has no configuration at hand: quota, listings, alerts.
ALTER TABLE claygate.clay_webhooks
    ADD COLUMN workspace text,
    -- Its place in the destination's list, from 0.
    ADD COLUMN place     integer,
    -- NULL: without end.
    ADD COLUMN cap       bigint,
    ADD COLUMN rollover  bigint,
    -- When a worker last had it in its configuration.
    ADD COLUMN seen_at   timestamptz,
    -- The highest per cent of `cap` that was warned of, so that each is warned of once.
    ADD COLUMN warned    smallint NOT NULL DEFAULT 0,
    ADD CONSTRAINT clay_webhooks_warned_is_a_percentage CHECK (warned BETWEEN 0 AND 100);
CREATE INDEX clay_webhooks_destination ON claygate.clay_webhooks (destination);
