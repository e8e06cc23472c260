-- The tables behind intake, routing and delivery. `architecture.md`'s "Storage" and ARCHITECTURE.md say why they look so.
-- Every timestamp is the database's clock unless a comment says otherwise. States are text with a CHECK.

-- One row per first sighting of a key, and one per accepted revision of it. Narrow: it outlives the bodies.
-- No index covers a column that routing changes, so the change of state is a heap-only update.
CREATE TABLE claygate.callbacks (
    id          uuid        NOT NULL CONSTRAINT callbacks_pkey PRIMARY KEY,
    source      text        NOT NULL,
    key         bytea       NOT NULL,
    key_kind    text        NOT NULL,
    revision    integer     NOT NULL DEFAULT 0,
    digest      bytea       NOT NULL,
    received_at timestamptz NOT NULL,
    spooled     boolean     NOT NULL DEFAULT false,
    row_id      uuid,
    state       text        NOT NULL DEFAULT 'received',
    reason      text,
    routing     integer     NOT NULL DEFAULT 0,
    claims      smallint    NOT NULL DEFAULT 0,
    sweeps      smallint    NOT NULL DEFAULT 0,
    enqueued_at timestamptz,
    CONSTRAINT callbacks_key UNIQUE (source, key, revision),
    CONSTRAINT callbacks_key_is_sha256 CHECK (octet_length(key) = 32 AND octet_length(digest) = 32),
    CONSTRAINT callbacks_key_kind_known CHECK (key_kind IN ('header', 'pointer', 'content')),
    CONSTRAINT callbacks_content_has_one_revision CHECK (key_kind <> 'content' OR revision = 0),
    CONSTRAINT callbacks_state_known CHECK (state IN ('received', 'routed', 'skipped', 'dead')),
    CONSTRAINT callbacks_reason_when_not_routed CHECK ((state IN ('skipped', 'dead')) = (reason IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX callbacks_received_at ON claygate.callbacks (received_at, id);

-- The raw request: bytes exactly as they came, headers with secrets redacted. Weekly partitions.
CREATE TABLE claygate.callback_bodies (
    callback_id uuid        NOT NULL,
    received_at timestamptz NOT NULL,
    body        bytea       NOT NULL,
    headers     json        NOT NULL,
    CONSTRAINT callback_bodies_pkey PRIMARY KEY (callback_id, received_at)
) PARTITION BY RANGE (received_at);

-- Ids that were answered for a spooled callback which turned out to be a duplicate by key.
CREATE TABLE claygate.callback_aliases (
    alias_id    uuid        NOT NULL CONSTRAINT callback_aliases_pkey PRIMARY KEY,
    callback_id uuid        NOT NULL,
    received_at timestamptz NOT NULL
);

-- Authenticated input that could not be taken as a callback; identical bytes are kept once.
CREATE TABLE claygate.quarantine (
    id           uuid        NOT NULL CONSTRAINT quarantine_pkey PRIMARY KEY,
    source       text        NOT NULL,
    problem      text        NOT NULL,
    detail       text        NOT NULL,
    digest       bytea       NOT NULL,
    body         bytea       NOT NULL,
    headers      json        NOT NULL,
    received_at  timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    seen         bigint      NOT NULL DEFAULT 1,
    callback_id  uuid,
    CONSTRAINT quarantine_once UNIQUE (source, problem, digest),
    CONSTRAINT quarantine_problem_known CHECK (problem IN ('malformed', 'conflict', 'refused'))
);
CREATE INDEX quarantine_received_at ON claygate.quarantine (received_at, id);

-- What came in, counted in the intake's own transaction; a row per writer, so that writers do not wait for each other.
CREATE TABLE claygate.intake_counts (
    instance text        NOT NULL,
    writer   smallint    NOT NULL,
    source   text        NOT NULL,
    hour     timestamptz NOT NULL,
    result   text        NOT NULL,
    n        bigint      NOT NULL,
    CONSTRAINT intake_counts_pkey PRIMARY KEY (instance, writer, source, hour, result),
    CONSTRAINT intake_counts_result_known CHECK (result IN ('new', 'duplicate', 'conflict', 'quarantined'))
) WITH (fillfactor = 50);

-- Everything that has to happen: 1 to 64 ids for one queue, visible from due_at on.
-- A claim moves due_at into the future and counts; an ack deletes the row of that very claim.
CREATE TABLE claygate.outbox (
    id     bigint      NOT NULL GENERATED ALWAYS AS IDENTITY CONSTRAINT outbox_pkey PRIMARY KEY,
    queue  text        NOT NULL,
    refs   uuid[]      NOT NULL,
    due_at timestamptz NOT NULL DEFAULT now(),
    claims integer     NOT NULL DEFAULT 0,
    CONSTRAINT outbox_batch_bounded CHECK (cardinality(refs) BETWEEN 1 AND 64)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX outbox_due ON claygate.outbox (queue, due_at, id);

-- The normalised lead of a callback. `person` is the hash that cool-downs compare.
CREATE TABLE claygate.leads (
    callback_id         uuid             NOT NULL CONSTRAINT leads_pkey PRIMARY KEY,
    received_at         timestamptz      NOT NULL,
    person              bytea,
    email               text,
    first_name          text,
    last_name           text,
    company_name        text,
    job_title           text,
    employee_count      bigint,
    industry            text,
    linkedin_url        text,
    icp_score           double precision,
    personalized_opener text,
    extra               jsonb            NOT NULL,
    warnings            text[]           NOT NULL
);

-- One row per routing of a callback: which rules ran, what each said, and under which version of the rules.
CREATE TABLE claygate.decisions (
    callback_id   uuid        NOT NULL,
    routing       integer     NOT NULL,
    decided_at    timestamptz NOT NULL DEFAULT now(),
    rules_version text        NOT NULL,
    outcome       text        NOT NULL,
    reason        text,
    trace         json        NOT NULL,
    CONSTRAINT decisions_pkey PRIMARY KEY (callback_id, routing),
    CONSTRAINT decisions_outcome_known CHECK (outcome IN ('routed', 'skipped', 'dead'))
);
-- Dead callbacks are found here: no index covers their own state.
CREATE INDEX decisions_dead ON claygate.decisions (decided_at, callback_id) WHERE outcome = 'dead';

CREATE TABLE claygate.rule_sets (
    version       text        NOT NULL CONSTRAINT rule_sets_pkey PRIMARY KEY,
    rules         json        NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now()
);

-- One lead (or row) for one destination. The CHECKs make contradictory states impossible.
CREATE TABLE claygate.deliveries (
    id              uuid        NOT NULL CONSTRAINT deliveries_pkey PRIMARY KEY,
    callback_id     uuid,
    row_id          uuid,
    destination     text        NOT NULL,
    replay          integer     NOT NULL DEFAULT 0,
    rule            text,
    person          bytea,
    state           text        NOT NULL DEFAULT 'pending',
    reason          text,
    blocked_by      uuid,
    created_at      timestamptz NOT NULL DEFAULT now(),
    ended_at        timestamptz,
    attempts        integer     NOT NULL DEFAULT 0,
    failures        integer     NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    lease_until     timestamptz,
    lease_token     uuid,
    claims          smallint    NOT NULL DEFAULT 0,
    sweeps          smallint    NOT NULL DEFAULT 0,
    enqueued_at     timestamptz,
    captured        jsonb,
    CONSTRAINT deliveries_one_subject CHECK (num_nonnulls(callback_id, row_id) = 1),
    CONSTRAINT deliveries_state_known CHECK (state IN ('pending', 'delivered', 'skipped', 'dead', 'cancelled')),
    CONSTRAINT deliveries_ended_once CHECK ((state = 'pending') = (ended_at IS NULL)),
    CONSTRAINT deliveries_next_attempt_while_pending CHECK ((state = 'pending') = (next_attempt_at IS NOT NULL)),
    CONSTRAINT deliveries_lease_while_pending CHECK (lease_until IS NULL OR state = 'pending'),
    CONSTRAINT deliveries_lease_complete CHECK ((lease_until IS NULL) = (lease_token IS NULL)),
    CONSTRAINT deliveries_reason_when_not_delivered
        CHECK ((state IN ('skipped', 'dead', 'cancelled')) = (reason IS NOT NULL)),
    CONSTRAINT deliveries_blocked_by_cool_down CHECK (blocked_by IS NULL OR (state = 'skipped' AND reason = 'cool_down'))
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX deliveries_once_per_callback
    ON claygate.deliveries (callback_id, destination, replay) WHERE callback_id IS NOT NULL;
CREATE UNIQUE INDEX deliveries_once_per_row
    ON claygate.deliveries (row_id, destination, replay) WHERE row_id IS NOT NULL;
CREATE INDEX deliveries_pending ON claygate.deliveries (destination, next_attempt_at, id) WHERE state = 'pending';
CREATE INDEX deliveries_leased ON claygate.deliveries (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX deliveries_dead ON claygate.deliveries (ended_at, id) WHERE state = 'dead';
CREATE INDEX deliveries_blocked_by ON claygate.deliveries (blocked_by) WHERE blocked_by IS NOT NULL;

-- One row per try, recorded whether or not its holder still owned the delivery. Weekly partitions.
CREATE TABLE claygate.attempts (
    delivery_id uuid        NOT NULL,
    number      integer     NOT NULL,
    started_at  timestamptz NOT NULL,
    duration_ms integer     NOT NULL,
    step        smallint    NOT NULL DEFAULT 0,
    class       text        NOT NULL,
    status      smallint,
    error       text,
    response    bytea,
    owned       boolean     NOT NULL,
    -- The lease it was made under: one attempt per lease, so a commit in doubt can be looked up.
    lease_token uuid,
    CONSTRAINT attempts_pkey PRIMARY KEY (delivery_id, number, started_at),
    CONSTRAINT attempts_class_known
        CHECK (class IN ('delivered', 'transient', 'throttled', 'permanent', 'unauthorized', 'gone', 'poison')),
    CONSTRAINT attempts_response_bounded CHECK (octet_length(response) <= 4096)
) PARTITION BY RANGE (started_at);

-- The same person is not sent to the same destination again before `until`.
CREATE TABLE claygate.cooldowns (
    destination text        NOT NULL,
    person      bytea       NOT NULL,
    until       timestamptz NOT NULL,
    delivery_id uuid        NOT NULL,
    CONSTRAINT cooldowns_pkey PRIMARY KEY (destination, person)
);
CREATE INDEX cooldowns_delivery ON claygate.cooldowns (delivery_id);

-- A missing row means running.
CREATE TABLE claygate.destination_state (
    destination text        NOT NULL CONSTRAINT destination_state_pkey PRIMARY KEY,
    state       text        NOT NULL,
    reason      text        NOT NULL,
    since       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT destination_state_known CHECK (state IN ('running', 'paused', 'disabled'))
);

-- GCRA on the database's clock, shared by every sender of a scope.
CREATE TABLE claygate.rate_limits (
    scope        text        NOT NULL CONSTRAINT rate_limits_pkey PRIMARY KEY,
    next_free_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Records sent into a Clay workspace. A callback that names one came back from it.
CREATE TABLE claygate.rows (
    id          uuid        NOT NULL CONSTRAINT rows_pkey PRIMARY KEY,
    workspace   text        NOT NULL,
    destination text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Where the sweeper goes on reading: every callback received before `position` has ended.
CREATE TABLE claygate.sweep_marks (
    queue    text        NOT NULL CONSTRAINT sweep_marks_pkey PRIMARY KEY,
    position timestamptz NOT NULL
);
