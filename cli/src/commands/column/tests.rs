#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use common::config::Environment;

use super::*;

const SECRET: &str = "0123456789abcdef";

fn fields(text: &str, variables: &[(&str, &str)], running_port: Option<u16>) -> ColumnFields {
    let variables = [("CLAY_WEBHOOK_SECRET", SECRET)].iter().chain(variables).copied();
    let config = Config::from_toml(Role::Sender, text, &variables.collect::<Environment>()).unwrap();
    let source = config.sources.values().next().unwrap();
    describe_column(&config, source, running_port, OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap())
}

#[test]
fn the_default_source_is_described_field_by_field() {
    let fields = fields("", &[("CLAYGATE_INGEST__PUBLIC_URL", "https://leads.example.com")], None);
    let text = write_column(&fields);
    for part in [
        "Method\n  POST\n",
        "URL\n  https://leads.example.com/api/clay/enriched\n",
        "Header\n  X-Clay-Signature: 0123456789abcdef\n",
        "HTTP API (Headers)",
        "    \"email\": \"{{Work Email}}\",\n",
        "    \"icp_score\": \"{{ICP Score}}\",\n",
        "type / and choose the column",
        "408, 429, 500-599\n",
        "retries       5\n",
        "Timeout\n  30 s\n",
        "received, id, status, duplicate",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains("tunnel"), "{text}");
    let body: serde_json::Value = serde_json::from_str(&fields.body).unwrap();
    assert_eq!(body.as_object().unwrap().len(), common::lead::Lead::KNOWN_FIELDS.len());
}

#[test]
fn without_a_public_url_a_tunnel_to_the_running_port_is_shown() {
    let text = write_column(&fields("[ingest]\nlisten = \"0.0.0.0:8080\"", &[], Some(18_080)));
    assert!(text.contains("https://<your public address>/api/clay/enriched"), "{text}");
    assert!(text.contains("cloudflared tunnel --url http://127.0.0.1:18080\n"), "{text}");
    assert!(text.contains("CLAYGATE_INGEST__PUBLIC_URL"), "{text}");
}

#[test]
fn the_body_follows_the_sources_names() {
    let text = "[sources.a]\npath = \"/a\"\nverify = { kind = \"none\" }\n\
                fields = { email = \"/Work Email\", city = \"/company/city~1town\", company_name = \"/company/name\" }\n\
                idempotency = { pointers = [\"/claygate_id\", \"/Work Email\"] }";
    let fields = fields(text, &[], None);
    let body: serde_json::Value = serde_json::from_str(&fields.body).unwrap();
    assert_eq!(body["Work Email"], "{{Work Email}}");
    assert_eq!(body["company"]["name"], "{{Company Name}}");
    assert_eq!(body["company"]["city/town"], "{{City}}");
    assert_eq!(body["claygate_id"], "{{Claygate Id}}");
    assert!(body.get("email").is_none());
    assert!(fields.body.starts_with("{\n  \"Work Email\": "), "{}", fields.body);
    assert!(write_column(&fields).contains("none: this source accepts anyone"));
}

#[test]
fn the_secret_that_lasts_longest_is_shown_and_an_expired_one_never() {
    let secret = |name: &str, end: &str| format!("{{ value = \"{name}-0123456789abcdef\", expires = \"{end}\" }}");
    let verify = |secrets: &[String]| {
        format!(
            "[sources.a]\npath = \"/a\"\nverify = {{ kind = \"token\", header = \"x-own\", secrets = [{}] }}",
            secrets.join(", ")
        )
    };
    let (old, soon, late) = (
        secret("old", "2020-01-01T00:00:00Z"),
        secret("soon", "2027-01-01T00:00:00Z"),
        secret("late", "2028-01-01T00:00:00Z"),
    );
    let lasting = "\"lasting-0123456789abcdef\"".to_owned();
    let shown =
        |secrets: &[String]| fields(&verify(secrets), &[], None).header.map(|header| (header.name, header.value));
    let expect = |name: &str| Some(("X-Own".to_owned(), format!("{name}-0123456789abcdef")));
    assert_eq!(shown(&[old.clone(), soon.clone(), late.clone()]), expect("late"));
    assert_eq!(shown(&[old.clone(), lasting, late]), expect("lasting"));
    assert_eq!(shown(std::slice::from_ref(&old)), None);
    let expired = write_column(&fields(&verify(&[old]), &[], None));
    assert!(expired.contains("has expired") && !expired.contains("old-0123"), "{expired}");
}

#[test]
fn what_a_column_cannot_prove_is_said() {
    let text = "[sources.a]\npath = \"/a\"\nverify = { kind = \"hmac-sha256\", secrets = [\"hidden-0123456789\"] }";
    let text = write_column(&fields(text, &[], None));
    assert!(text.contains("cannot sign a body") && !text.contains("hidden"), "{text}");
}
