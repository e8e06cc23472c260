//! A database that has been in use for a while: callbacks that were routed long ago.

/// Statements that store `callbacks` callbacks. Their keys are digests, which come in no order: pages of their index that
/// were filled in order would be full, and all of them split while new keys are measured.
pub(super) fn filling(callbacks: u64) -> [String; 4] {
    let numbers = format!("generate_series(0, {callbacks} - 1) AS n");
    let id = "(lpad(to_hex(1700000000000 + n), 12, '0') || '7' || substr(md5(n::text), 1, 3)
              || '8' || substr(md5(n::text), 4, 15))::uuid";
    let key = "sha256(int8send(n))";
    [
        format!(
            "INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at, state)
             SELECT {id}, 'hmac', {key}, 'content', {key}, now(), 'routed' FROM {numbers}"
        ),
        "INSERT INTO claygate.callback_bodies (callback_id, received_at, body, headers)
         SELECT id, received_at, '\\x7b7d', '{}' FROM claygate.callbacks"
            .to_owned(),
        format!(
            "INSERT INTO claygate.intake_counts (instance, writer, source, hour, result, n)
             VALUES ('bench', 0, 'hmac', date_trunc('hour', now()), 'new', {callbacks})"
        ),
        "VACUUM ANALYZE".to_owned(),
    ]
}
