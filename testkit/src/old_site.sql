-- A site that has been in use for eight weeks, $N callbacks evenly spread; all that ever happens to one, by n % 10.
-- Ids begin with the time of their making, as those of the services do.
CREATE OR REPLACE FUNCTION pg_temp.id_at(at timestamptz, n bigint, kind int) RETURNS uuid LANGUAGE sql AS
$$ SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(kind), 3, '0') || 'a'
    || substr(md5(n::text), 1, 15))::uuid $$;

CREATE TEMPORARY TABLE seed AS
SELECT n, n % 10 AS k, pg_temp.id_at(at, n, 0) AS id, pg_temp.id_at(at, n, 1) AS delivery, pg_temp.id_at(at, n, 2) AS row, at,
    sha256(n::text::bytea) AS hash
FROM (SELECT n, date_trunc('hour', now()) - interval '8 weeks' + n * (interval '8 weeks' / $N) AS at
      FROM generate_series(0::bigint, $N - 1) AS n) AS moments;

INSERT INTO claygate.rule_sets (version, rules) VALUES ('old', '[
    {"name": "row", "when": "x", "to": ["leads"], "source": [], "stop": true},
    {"name": "all", "when": "x", "to": ["crm"], "source": [], "stop": false}]');

INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at, state, reason)
SELECT id, 'clay', hash, 'header', hash, at,
    CASE k WHEN 3 THEN 'skipped' WHEN 4 THEN 'skipped' WHEN 5 THEN 'dead' ELSE 'routed' END,
    CASE k WHEN 3 THEN 'no_rule' WHEN 4 THEN 'recorded' WHEN 5 THEN 'rule_error' END
FROM seed;

INSERT INTO claygate.callback_bodies (callback_id, received_at, body, headers) SELECT id, at, '{}', '[]' FROM seed;

INSERT INTO claygate.intake_counts (instance, writer, source, hour, result, n)
SELECT 'i', 0, 'clay', date_trunc('hour', at), 'new', count(*) FROM seed GROUP BY 4;

INSERT INTO claygate.leads (callback_id, received_at, person, email, extra, warnings)
SELECT id, at, hash, 'person' || n || '@example.com', '{}', '{}' FROM seed WHERE k <> 4;

INSERT INTO claygate.decisions (callback_id, routing, decided_at, rules_version, outcome, reason, trace)
SELECT id, 0, at, 'old', CASE k WHEN 3 THEN 'skipped' WHEN 5 THEN 'dead' ELSE 'routed' END,
    CASE k WHEN 3 THEN 'no_rule' WHEN 5 THEN 'rule_error' END,
    CASE WHEN k = 6 THEN '[{"rule": "row", "result": "matched"}]' WHEN k IN (3, 5) THEN '[]'
         ELSE '[{"rule": "row", "result": "no_match"}, {"rule": "all", "result": "matched"}]' END::json
FROM seed WHERE k <> 4;

-- One in fifty waits for a destination that is paused.
INSERT INTO claygate.deliveries (id, callback_id, destination, rule, person, state, reason, blocked_by, created_at, ended_at,
    attempts, next_attempt_at)
SELECT delivery, id, CASE k WHEN 6 THEN 'leads' ELSE 'crm' END, CASE k WHEN 6 THEN 'row' ELSE 'all' END, hash,
    CASE WHEN n % 50 = 7 THEN 'pending' WHEN k = 2 THEN 'dead' WHEN k = 8 THEN 'skipped' ELSE 'delivered' END,
    CASE k WHEN 2 THEN 'terminal' WHEN 8 THEN 'cool_down' END, CASE k WHEN 8 THEN delivery END, at,
    CASE WHEN n % 50 <> 7 THEN at + interval '2 s' END,
    CASE WHEN n % 50 = 7 OR k = 8 THEN 0 WHEN k = 1 THEN 2 ELSE 1 END, CASE WHEN n % 50 = 7 THEN at END
FROM seed WHERE k NOT IN (3, 4, 5);
INSERT INTO claygate.destination_state (destination, state, reason) VALUES ('crm', 'paused', 'operator');

INSERT INTO claygate.cooldowns (destination, person, until, delivery_id)
SELECT 'crm', hash, at + interval '7 days', delivery FROM seed WHERE k = 0;

INSERT INTO claygate.rows (id, workspace, destination, callback_id, created_at, sent_at)
SELECT delivery, 'acme', 'leads', id, at, at FROM seed WHERE k = 6;

-- Rows that were handed in; one in five waits.
INSERT INTO claygate.row_batches (id, destination, name, started_at, finished_at)
SELECT pg_temp.id_at(at, n, 3), 'table', 'http', at, at FROM seed WHERE n % 100 = 0;
INSERT INTO claygate.rows (id, workspace, destination, key, key_kind, body, created_at, batch_id, line)
SELECT row, 'acme', 'table', hash, 'content', '{}', at,
    (SELECT pg_temp.id_at(first.at, first.n, 3) FROM seed AS first WHERE first.n = seed.n / 100 * 100), n
FROM seed WHERE k = 0;
INSERT INTO claygate.deliveries (id, row_id, destination, state, created_at, ended_at, attempts, next_attempt_at)
SELECT pg_temp.id_at(at, n, 4), row, 'table', CASE WHEN n % 50 = 0 THEN 'pending' ELSE 'delivered' END, at,
    CASE WHEN n % 50 <> 0 THEN at END, CASE WHEN n % 50 <> 0 THEN 1 ELSE 0 END, CASE WHEN n % 50 = 0 THEN at END
FROM seed WHERE k = 0;
INSERT INTO claygate.destination_state (destination, state, reason) VALUES ('table', 'paused', 'operator');

INSERT INTO claygate.attempts (delivery_id, number, started_at, duration_ms, class, status, owned)
SELECT d.id, number, d.created_at + number * interval '10 ms', 5,
    CASE WHEN d.state = 'delivered' AND number = d.attempts THEN 'delivered' ELSE 'transient' END, 500, true
FROM claygate.deliveries AS d, generate_series(1, d.attempts) AS number;

INSERT INTO claygate.callback_aliases (alias_id, callback_id, received_at)
SELECT pg_temp.id_at(at, n, 5), id, at FROM seed WHERE n % 20 = 0;

-- What came once, and what has come again lately.
INSERT INTO claygate.quarantine (id, source, problem, detail, digest, body, headers, received_at, last_seen_at, seen)
SELECT pg_temp.id_at(at, n, 6), 'clay', 'malformed', 'd', hash, 'b', '[]', at,
    CASE WHEN n % 40 = 0 THEN now() - interval '1 hour' ELSE at END, CASE WHEN n % 40 = 0 THEN 2 ELSE 1 END
FROM seed WHERE n % 20 = 0;
INSERT INTO claygate.intake_counts (instance, writer, source, hour, result, n)
SELECT 'i', 1, 'clay', hour, 'quarantined', count(*) FROM (
    SELECT date_trunc('hour', at) AS hour FROM seed WHERE n % 20 = 0
    UNION ALL
    SELECT date_trunc('hour', now() - interval '1 hour') FROM seed WHERE n % 40 = 0
) AS came GROUP BY hour;

INSERT INTO claygate.sweep_marks (queue, position) VALUES ('callbacks', now() - interval '11 min');
DROP TABLE seed;
