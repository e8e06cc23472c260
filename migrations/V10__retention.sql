-- What is kept for how long (docs/adr/0028-retention.md).

-- How far each kind has been removed: what is older may be gone. Written before anything is.
CREATE TABLE claygate.retention_marks (
    what  text        NOT NULL CONSTRAINT retention_marks_pkey PRIMARY KEY,
    until timestamptz NOT NULL,
    CONSTRAINT retention_marks_known CHECK (what IN ('bodies', 'attempts', 'leads', 'decisions', 'rows', 'keys'))
);

-- Rows that were handed in and still have their object, oldest first.
CREATE INDEX rows_with_body ON claygate.rows (id) WHERE body IS NOT NULL;
