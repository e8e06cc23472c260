-- The loop of rows, counted and sent again (docs/adr/0024-the-loop.md).

-- When a row is overdue follows from `sent_at` and the configuration of now.
ALTER TABLE claygate.rows
    DROP COLUMN expected_at,
    -- How often Clay said that it took it: once, and once more for every time that it was sent again. 0 on rows that an
    -- older version sent.
    ADD COLUMN times_sent integer NOT NULL DEFAULT 0;

-- All that the report asks about rows, without reading their objects.
DROP INDEX claygate.rows_sent;
CREATE INDEX rows_sent ON claygate.rows (destination, sent_at, id) INCLUDE (returned_at, returned_by, times_sent)
    WHERE sent_at IS NOT NULL;
