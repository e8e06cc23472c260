-- Every intake's last word about its spool: what it holds was answered, and is not in the books yet.
CREATE TABLE claygate.spools (
    instance     text        NOT NULL CONSTRAINT spools_pkey PRIMARY KEY,
    host         text        NOT NULL,
    entries      bigint      NOT NULL,
    stopped      boolean     NOT NULL,
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT spools_entries_count CHECK (entries >= 0)
) WITH (fillfactor = 50);
