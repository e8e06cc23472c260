//! Templates of URLs, headers, texts and JSON bodies (minijinja). No files, no includes, no macros, limited work.
//!
//! What a template sees: `lead` (the normalised lead's present fields), `captured` (what earlier steps captured) and
//! `claygate` (ids, rule, source, times). What is missing or null renders as nothing. A value inserted into a URL is
//! percent-encoded, one inserted into Slack text has its control characters escaped; `| safe` switches that off.
//!
//! In a JSON body every string leaf is a template. A leaf that is exactly one expression keeps the expression's type:
//! `"{{ lead.icp_score }}"` gives a number. Where such an expression is undefined the key (or list element) is left
//! out, so that a missing field never overwrites what the destination already knows; `{{ lead.email or none }}` gives
//! null instead.

use std::fmt::Write as _;

use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};
use serde_json::Value as Json;

/// Work that one rendering may do; a template over a lead of a megabyte needs a fraction of it.
const FUEL: u64 = 2_000_000;
/// Nesting of a JSON body.
const DEPTH_MAX: usize = 32;
/// The variable that carries a single expression's value out of the template engine.
const RESULT: &str = "__result";

/// What happens to values on their way into a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// Nothing.
    Plain,
    /// Everything but unreserved characters is percent-encoded.
    Url,
    /// `&`, `<` and `>` are Slack's control characters.
    Slack,
}

impl Escape {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Url => "url",
            Self::Slack => "slack",
        }
    }
}

/// Why a template cannot be used. Says where, never what stands there: templates may hold secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateProblem {
    /// It is not one.
    #[error("a template is not valid: {kind}, line {line}")]
    Syntax {
        /// minijinja's name of the mistake.
        kind: String,
        /// 1-based line of the template.
        line: usize,
    },
    /// Deeper than any body needs.
    #[error("a body is nested more than {DEPTH_MAX} levels deep")]
    Depth,
}

/// Why a template gave nothing for one lead. Carries no value of the lead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a template failed: {kind}")]
pub struct RenderProblem {
    kind: String,
}

/// A compiled template for a piece of text.
#[derive(Clone)]
pub enum Text {
    /// Nothing to fill in.
    Literal(String),
    /// The template's name in its [`Templates`].
    Template(String),
}

/// A compiled JSON body.
#[derive(Clone)]
pub enum JsonTemplate {
    /// As it is.
    Literal(Json),
    /// A string leaf with text around its expressions.
    Text(Text),
    /// A string leaf that is one expression.
    Expression(String),
    /// Elements.
    List(Vec<JsonTemplate>),
    /// Keys, as they are, and values.
    Object(Vec<(String, JsonTemplate)>),
}

/// The compiled templates of one destination.
pub struct Templates {
    environment: Environment<'static>,
    count: usize,
}

impl Templates {
    /// None yet.
    pub fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|name| match name.split('/').next() {
            Some("url") => AutoEscape::Custom("url".into()),
            Some("slack") => AutoEscape::Custom("slack".into()),
            _ => AutoEscape::None,
        });
        environment.set_formatter(write_value);
        Self { environment, count: 0 }
    }

    /// Compiles a text.
    ///
    /// # Errors
    /// [`TemplateProblem`] when it is not a template.
    pub fn text(&mut self, source: &str, escape: Escape) -> Result<Text, TemplateProblem> {
        if !["{{", "{%", "{#"].iter().any(|mark| source.contains(mark)) {
            return Ok(Text::Literal(source.to_owned()));
        }
        self.add(escape, source.to_owned()).map(Text::Template)
    }

    /// Compiles a JSON body.
    ///
    /// # Errors
    /// [`TemplateProblem`] when one of its strings is not a template, or it is nested too deep.
    pub fn json(&mut self, body: &Json) -> Result<JsonTemplate, TemplateProblem> {
        self.json_at(body, 0)
    }

    fn json_at(&mut self, body: &Json, depth: usize) -> Result<JsonTemplate, TemplateProblem> {
        if depth > DEPTH_MAX {
            return Err(TemplateProblem::Depth);
        }
        Ok(match body {
            Json::String(leaf) => match self.single_expression(leaf) {
                Some(expression) => {
                    JsonTemplate::Expression(self.add(Escape::Plain, format!("{{% set {RESULT} = ({expression}) %}}"))?)
                }
                None => JsonTemplate::Text(self.text(leaf, Escape::Plain)?),
            },
            Json::Array(elements) => JsonTemplate::List(
                elements.iter().map(|element| self.json_at(element, depth + 1)).collect::<Result<_, _>>()?,
            ),
            Json::Object(entries) => JsonTemplate::Object(
                entries
                    .iter()
                    .map(|(key, value)| Ok((key.clone(), self.json_at(value, depth + 1)?)))
                    .collect::<Result<_, _>>()?,
            ),
            other => JsonTemplate::Literal(other.clone()),
        })
    }

    /// The expression of a leaf that is nothing but `{{ expression }}`.
    fn single_expression(&self, leaf: &str) -> Option<String> {
        let inner = leaf.strip_prefix("{{")?.strip_suffix("}}")?;
        let inner = inner.strip_prefix('-').unwrap_or(inner);
        let inner = inner.strip_suffix('-').unwrap_or(inner).trim();
        // `{{ a }} {{ b }}` begins and ends the same way, but what is between is no expression.
        self.environment.compile_expression(inner).is_ok().then(|| inner.to_owned())
    }

    fn add(&mut self, escape: Escape, source: String) -> Result<String, TemplateProblem> {
        let name = format!("{}/{}", escape.as_str(), self.count);
        self.count += 1;
        self.environment.add_template_owned(name.clone(), source).map_err(|error| TemplateProblem::Syntax {
            kind: error.kind().to_string(),
            line: error.line().unwrap_or(1),
        })?;
        Ok(name)
    }

    /// Fills a text in.
    ///
    /// # Errors
    /// [`RenderProblem`] when an expression fails or the work is not bounded.
    pub fn render(&self, text: &Text, context: &Value) -> Result<String, RenderProblem> {
        match text {
            Text::Literal(text) => Ok(text.clone()),
            Text::Template(name) => {
                self.environment.get_template(name).and_then(|t| t.render(context.clone())).map_err(problem)
            }
        }
    }

    /// Fills a JSON body in. `None`: the whole body is one undefined expression.
    ///
    /// # Errors
    /// [`RenderProblem`] when an expression fails, its value is no JSON, or the work is not bounded.
    pub fn render_json(&self, body: &JsonTemplate, context: &Value) -> Result<Option<Json>, RenderProblem> {
        Ok(match body {
            JsonTemplate::Literal(value) => Some(value.clone()),
            JsonTemplate::Text(text) => Some(Json::String(self.render(text, context)?)),
            JsonTemplate::Expression(name) => {
                let value = self.evaluate(name, context).map_err(problem)?;
                if value.is_undefined() { None } else { Some(to_json(&value)?) }
            }
            JsonTemplate::List(elements) => {
                let mut list = Vec::with_capacity(elements.len());
                for element in elements {
                    list.extend(self.render_json(element, context)?);
                }
                Some(Json::Array(list))
            }
            JsonTemplate::Object(entries) => {
                let mut object = serde_json::Map::new();
                for (key, value) in entries {
                    if let Some(value) = self.render_json(value, context)? {
                        object.insert(key.clone(), value);
                    }
                }
                Some(Json::Object(object))
            }
        })
    }

    fn evaluate(&self, name: &str, context: &Value) -> Result<Value, Error> {
        let captured = self.environment.get_template(name)?.render_captured(context.clone())?;
        Ok(captured.state().lookup(RESULT).unwrap_or(Value::UNDEFINED))
    }
}

impl Default for Templates {
    fn default() -> Self {
        Self::new()
    }
}

fn problem(error: Error) -> RenderProblem {
    RenderProblem { kind: error.kind().to_string() }
}

fn to_json(value: &Value) -> Result<Json, RenderProblem> {
    serde_json::to_value(value).map_err(|_| RenderProblem { kind: "the value is not JSON".to_owned() })
}

fn write_value(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if matches!(value.kind(), ValueKind::Undefined | ValueKind::None) {
        return Ok(());
    }
    let escape: fn(&str) -> String = match state.auto_escape() {
        AutoEscape::Custom(name) if !value.is_safe() && name == "url" => percent_encode,
        AutoEscape::Custom(name) if !value.is_safe() && name == "slack" => escape_slack,
        _ => return write!(out, "{value}").map_err(|_| Error::from(ErrorKind::WriteFailure)),
    };
    out.write_str(&escape(&value.to_string())).map_err(|_| Error::from(ErrorKind::WriteFailure))
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

/// Escapes Slack's three control characters, so that a lead's text can neither link nor mention anybody.
pub fn escape_slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use minijinja::value::Serde;
    use serde_json::json;

    use super::*;

    fn context() -> Value {
        Value::from(Serde(json!({
            "lead": {"email": "ada+x@example.com", "icp_score": 85.5, "employee_count": 250, "company_name": "A \"B\" & <C>\n",
                     "tags": ["a", 1, null]},
            "captured": {"id": 7},
            "claygate": {"delivery_id": "d"},
        })))
    }

    fn json_of(body: Json) -> Json {
        let mut templates = Templates::new();
        let body = templates.json(&body).unwrap();
        templates.render_json(&body, &context()).unwrap().unwrap_or(Json::Null)
    }

    fn text_of(source: &str, escape: Escape) -> String {
        let mut templates = Templates::new();
        let text = templates.text(source, escape).unwrap();
        templates.render(&text, &context()).unwrap()
    }

    #[test]
    fn a_single_expression_keeps_its_type_and_text_becomes_text() {
        let table = [
            (json!("{{ lead.icp_score }}"), json!(85.5)),
            (json!("{{lead.employee_count}}"), json!(250)),
            (json!("{{- lead.employee_count -}}"), json!(250)),
            (json!("{{ lead.employee_count + 1 }}"), json!(251)),
            (json!("{{ lead.employee_count > 100 }}"), json!(true)),
            (json!("{{ lead.tags }}"), json!(["a", 1, null])),
            (json!("{{ '}}' }}"), json!("}}")),
            (json!("{{ lead.icp_score }}!"), json!("85.5!")),
            (json!(" {{ lead.employee_count }}"), json!(" 250")),
            (json!("{{ lead.employee_count }}{{ captured.id }}"), json!("2507")),
            (json!("{% if lead.email %}yes{% endif %}"), json!("yes")),
            (json!("no template"), json!("no template")),
            (json!({"n": 1, "b": true, "z": null}), json!({"n": 1, "b": true, "z": null})),
        ];
        for (body, expected) in table {
            assert_eq!(json_of(body.clone()), expected, "{body}");
        }
    }

    #[test]
    fn a_missing_field_leaves_its_key_out() {
        let body = json!({"a": "{{ lead.nothing }}", "b": "{{ lead.nothing.deeper }}", "c": "x{{ lead.nothing }}y",
                          "d": "{{ lead.nothing or none }}", "e": ["{{ lead.nothing }}", "{{ captured.id }}"],
                          "f": {"g": "{{ lead.nothing }}"}, "h": "{{ lead.nothing | default('none') }}"});
        assert_eq!(json_of(body), json!({"c": "xy", "d": null, "e": [7], "f": {}, "h": "none"}));
    }

    #[test]
    fn quoting_cannot_break_a_json_body() {
        let body = json_of(json!({"name": "{{ lead.company_name }}", "line": "at {{ lead.company_name }}"}));
        assert_eq!(body, json!({"name": "A \"B\" & <C>\n", "line": "at A \"B\" & <C>\n"}));
    }

    #[test]
    fn values_are_escaped_for_where_they_go() {
        assert_eq!(
            text_of("https://example.com/{{ lead.email }}?n={{ lead.company_name }}&id={{ captured.id }}", Escape::Url),
            "https://example.com/ada%2Bx%40example.com?n=A%20%22B%22%20%26%20%3CC%3E%0A&id=7"
        );
        assert_eq!(text_of("{{ 'a/b' | safe }}", Escape::Url), "a/b");
        assert_eq!(text_of("*{{ lead.company_name }}*", Escape::Slack), "*A \"B\" &amp; &lt;C&gt;\n*");
        assert_eq!(text_of("{{ lead.company_name }}", Escape::Plain), "A \"B\" & <C>\n");
        assert_eq!(text_of("[{{ lead.nothing }}{{ none }}]", Escape::Plain), "[]");
    }

    #[test]
    fn mistakes_are_found_when_compiling_and_do_not_repeat_the_template() {
        let mut templates = Templates::new();
        for source in ["{{ secret", "{% include 'secret' %}", "{% macro secret() %}{% endmacro %}", "{{ secret( }}"] {
            let problem = templates.text(source, Escape::Plain).err().unwrap();
            assert!(!problem.to_string().contains("secret"), "{problem}");
        }
        let mut deep = json!("x");
        for _ in 0..40 {
            deep = json!([deep]);
        }
        assert_eq!(templates.json(&deep).err().unwrap(), TemplateProblem::Depth);
    }

    #[test]
    fn endless_work_is_cut_off() {
        let mut templates = Templates::new();
        let source = "{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}";
        let text = templates.text(source, Escape::Plain).unwrap();
        assert!(templates.render(&text, &context()).is_err());
    }

    #[test]
    fn a_lead_of_a_megabyte_fits() {
        let mut templates = Templates::new();
        let text = templates.text("{{ lead.note }}", Escape::Plain).unwrap();
        let context = Value::from(Serde(json!({"lead": {"note": "x".repeat(1 << 20)}})));
        assert_eq!(templates.render(&text, &context).unwrap().len(), 1 << 20);
    }
}
