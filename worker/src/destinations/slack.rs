//! The default text of a Slack message: name, title, company, score.

use serde_json::{Map, Value};

use super::template::escape_slack;

/// One line that says who it is, with what of the lead is there. Values are escaped for Slack.
pub fn default_text(lead: &Map<String, Value>) -> String {
    let field = |name: &str| lead.get(name).and_then(Value::as_str).map(escape_slack);
    let names: Vec<String> = ["first_name", "last_name"].into_iter().filter_map(field).collect();
    let name = if names.is_empty() {
        field("email").unwrap_or_else(|| "A lead without a name".to_owned())
    } else {
        names.join(" ")
    };
    let place = match (field("job_title"), field("company_name")) {
        (Some(title), Some(company)) => format!(", {title} at {company}"),
        (Some(title), None) => format!(", {title}"),
        (None, Some(company)) => format!(", {company}"),
        (None, None) => String::new(),
    };
    let score = lead.get("icp_score").and_then(Value::as_f64);
    let score = score.map(|score| format!(" (ICP score {score})")).unwrap_or_default();
    format!("*{name}*{place}{score}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn says_what_is_there() {
        let table = [
            (
                json!({"first_name": "Ada", "last_name": "Byron", "job_title": "CTO", "company_name": "Example & Sons",
                       "icp_score": 92.0}),
                "*Ada Byron*, CTO at Example &amp; Sons (ICP score 92)",
            ),
            (json!({"email": "ada@example.com", "icp_score": 0}), "*ada@example.com* (ICP score 0)"),
            (json!({"first_name": "<!channel>", "job_title": "CTO"}), "*&lt;!channel&gt;*, CTO"),
            (json!({"company_name": "Example"}), "*A lead without a name*, Example"),
            (json!({}), "*A lead without a name*"),
        ];
        for (lead, expected) in table {
            assert_eq!(default_text(lead.as_object().unwrap_or(&Map::new())), expected);
        }
    }
}
