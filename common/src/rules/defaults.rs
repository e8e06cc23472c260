//! The rules of an installation without rules of its own.

use crate::config::RuleConfig;

/// Score ≥ 90 → `alerts`; score ≥ 80 with an email → `outreach`, else score ≥ 50 → `nurture`, else nowhere; every routed
/// lead → `zapier`.
///
/// "Else" is the `stop` of `outreach`. A lead is routed exactly where one of the latter two matches (a score for `alerts`
/// is one for them as well), so these name `zapier`; who has no such destination takes it out of their lists. A lead
/// without a score matches nothing and ends as skipped.
pub fn default_rules() -> Vec<RuleConfig> {
    let rule = |name: &str, when: &str, to: &[&str], stop| RuleConfig {
        name: name.to_owned(),
        when: when.to_owned(),
        to: to.iter().map(|name| (*name).to_owned()).collect(),
        source: Vec::new(),
        stop,
    };
    vec![
        rule("alerts", "lead.icp_score >= 90", &["alerts"], false),
        rule("outreach", "lead.icp_score >= 80 && has(lead.email)", &["outreach", "zapier"], true),
        rule("nurture", "lead.icp_score >= 50", &["nurture", "zapier"], false),
    ]
}
