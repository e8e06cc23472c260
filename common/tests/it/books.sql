-- Ids begin with the time of their making; these look younger than any.
CREATE OR REPLACE FUNCTION pg_temp.young_id() RETURNS uuid LANGUAGE sql AS
$$ SELECT overlay(gen_random_uuid()::text PLACING 'f' FROM 1)::uuid $$;

-- A site where everything has happened. 200 callbacks, a hundred of each source, twenty in each of five past hours.
INSERT INTO claygate.rule_sets (version, rules) VALUES ('v1', '[
    {"name": "hot", "when": "x", "to": ["crm", "alerts"], "source": [], "stop": false},
    {"name": "all", "when": "x", "to": ["crm"], "source": [], "stop": false}]');

INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at, spooled, state, reason, routing)
SELECT pg_temp.young_id(), CASE WHEN n % 2 = 0 THEN 'clay' ELSE 'web' END, sha256(n::text::bytea), 'header',
    sha256(n::text::bytea), date_trunc('hour', now()) - make_interval(hours => 1 + (n / 2) % 5) + make_interval(secs => n),
    n % 7 = 0, state, reason, CASE WHEN n IN (0, 1) THEN 1 ELSE 0 END
FROM generate_series(0, 199) AS n
JOIN (VALUES (0, 'routed', NULL), (1, 'routed', NULL), (2, 'skipped', 'no_rule'), (3, 'skipped', 'recorded'),
    (4, 'dead', 'rule_error'), (5, 'received', NULL), (6, 'routed', NULL), (7, 'routed', NULL)
) AS kind (k, state, reason) ON k = n / 2 % 8;

INSERT INTO claygate.callback_bodies (callback_id, received_at, body, headers)
SELECT id, received_at, '{}', '[]' FROM claygate.callbacks;

INSERT INTO claygate.intake_counts (instance, writer, source, hour, result, n)
SELECT 'i', writer, source, date_trunc('hour', received_at), 'new', count(*)
FROM (SELECT source, received_at, (row_number() OVER (ORDER BY id) % 2)::smallint AS writer FROM claygate.callbacks) AS c
GROUP BY 1, 2, 3, 4, 5;

-- Both rules, or the second; replayed ones were decided twice.
INSERT INTO claygate.decisions (callback_id, routing, rules_version, outcome, reason, trace)
SELECT c.id, routing, 'v1', state, reason, CASE WHEN state <> 'routed' THEN '[{"rule": "hot", "result": "no_match"}]'
    WHEN c.key < '\x80' THEN '[{"rule": "hot", "result": "matched"}, {"rule": "all", "result": "matched"}]'
    ELSE '[{"rule": "hot", "result": "no_match"}, {"rule": "all", "result": "matched"}]' END::json
FROM (SELECT id, key, state, reason, generate_series(0, routing) AS routing FROM claygate.callbacks
      WHERE state <> 'received' AND reason IS DISTINCT FROM 'recorded') AS c;

-- What was made of them: crm has every fate, alerts is held back by a cool-down.
INSERT INTO claygate.deliveries (id, callback_id, destination, replay, state, reason, created_at, ended_at, attempts,
    failures, next_attempt_at, lease_until, lease_token)
SELECT pg_temp.young_id(), id, 'crm', replay, state, reason, received_at,
    CASE WHEN state <> 'pending' THEN now() END, attempts, 0,
    CASE WHEN state = 'pending' THEN received_at END,
    CASE WHEN place % 6 = 4 THEN now() + interval '1 min' END, CASE WHEN place % 6 = 4 THEN pg_temp.young_id() END
FROM (SELECT id, received_at, generate_series(0, routing) AS replay, row_number() OVER (ORDER BY id) AS place
      FROM claygate.callbacks WHERE state = 'routed') AS c
JOIN (VALUES (0, 'delivered', NULL, 2), (1, 'dead', 'terminal', 3), (2, 'pending', NULL, 1),
    (3, 'cancelled', 'operator', 0), (4, 'pending', NULL, 0), (5, 'delivered', NULL, 1)
) AS kind (k, state, reason, attempts) ON k = place % 6;
INSERT INTO claygate.deliveries (id, callback_id, destination, state, reason, created_at, ended_at, blocked_by)
SELECT pg_temp.young_id(), id, 'alerts', 'skipped', 'cool_down', received_at, received_at, pg_temp.young_id()
FROM claygate.callbacks WHERE state = 'routed' AND key < '\x80';

-- Rows that were handed in: one taken, one held back, one that waits.
INSERT INTO claygate.rows (id, workspace, destination, key, key_kind, body)
SELECT pg_temp.young_id(), 'acme', 'table', sha256(n::text::bytea), 'content', '{}' FROM generate_series(1, 3) AS n;
INSERT INTO claygate.deliveries (id, row_id, destination, state, reason, ended_at, attempts, next_attempt_at)
SELECT pg_temp.young_id(), id, 'table', state, reason, CASE WHEN state <> 'pending' THEN now() END, attempts,
    CASE WHEN state = 'pending' THEN now() END
FROM (SELECT id, row_number() OVER () AS place FROM claygate.rows) AS r
JOIN (VALUES (1, 'delivered', NULL, 1), (2, 'skipped', 'duplicate_row', 0), (3, 'pending', NULL, 0)
) AS kind (k, state, reason, attempts) ON k = place;

-- Rows that a rule made, each written with its delivery's first submission.
INSERT INTO claygate.rows (id, workspace, destination, callback_id, sent_at)
SELECT id, 'acme', destination, callback_id, now() FROM claygate.deliveries
WHERE callback_id IS NOT NULL AND state = 'delivered' ORDER BY id LIMIT 3;

-- The last attempt of a delivered one was taken; a straggler of one that is dead was taken after its lease was lost.
INSERT INTO claygate.attempts (delivery_id, number, started_at, duration_ms, class, status, owned, lease_token)
SELECT d.id, n, GREATEST(d.created_at, date_trunc('week', now()) - interval '7 days'), 5,
    CASE WHEN d.state = 'delivered' AND n = d.attempts OR d.state = 'dead' AND n = 3 THEN 'delivered' ELSE 'transient' END,
    500, NOT (d.state = 'dead' AND n = 3), pg_temp.young_id()
FROM claygate.deliveries AS d, generate_series(1, d.attempts) AS n;

INSERT INTO claygate.outbox (queue, refs)
SELECT 'callbacks', array_agg(id) FROM (
    SELECT id, row_number() OVER () / 60 AS batch FROM claygate.callbacks WHERE state = 'received') AS c GROUP BY batch;
INSERT INTO claygate.outbox (queue, refs, due_at)
SELECT 'deliver.' || destination, array_agg(id), now() + interval '1 h' FROM (
    SELECT id, destination, row_number() OVER () / 60 AS batch FROM claygate.deliveries
    WHERE state = 'pending' AND lease_until IS NULL) AS d GROUP BY destination, batch;

-- What came once, what came again and again, and what came before the window, too.
INSERT INTO claygate.quarantine (id, source, problem, detail, digest, body, headers, received_at, last_seen_at, seen)
SELECT pg_temp.young_id(), source, problem, 'd', sha256(source::bytea), 'b', '[]', now() - ago::interval, now() - interval '3 h', seen
FROM (VALUES ('clay', 'malformed', '4 h', 3), ('clay', 'conflict', '9 days', 10), ('web', 'refused', '3 h', 1)
) AS q (source, problem, ago, seen);
INSERT INTO claygate.intake_counts (instance, writer, source, hour, result, n)
SELECT 'i', 0, source, date_trunc('hour', now() - ago::interval), result, n
FROM (VALUES ('clay', '4 h', 'quarantined', 2), ('clay', '3 h', 'quarantined', 1), ('clay', '9 days', 'conflict', 6),
    ('clay', '3 h', 'conflict', 4), ('web', '3 h', 'quarantined', 1), ('web', '5 h', 'duplicate', 12)
) AS q (source, ago, result, n);

INSERT INTO claygate.spools (instance, host, entries, stopped) VALUES ('i', 'host', 0, false);
