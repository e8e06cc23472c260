//! What a compiled expression may contain: known names and functions, no comprehension inside another's body, bounded
//! depth. Collects every problem, and what the expression reads.

use std::collections::BTreeSet;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo};

use super::nearest;

/// What an expression may start from.
const ROOTS: [&str; 3] = ["lead", "source", "callback"];
/// Functions called as `f(x)`.
const FUNCTIONS: [&str; 8] = ["bool", "double", "int", "matches", "number", "size", "string", "uint"];
/// Functions called as `x.f(…)`.
const MEMBER_FUNCTIONS: [&str; 5] = ["contains", "endsWith", "matches", "size", "startsWith"];
/// Macros, for the hint at a misspelt one.
const MACROS: [&str; 7] = ["all", "exists", "exists_one", "existsOne", "filter", "has", "map"];
/// What CEL makes of its operators.
const OPERATORS: [&str; 18] = [
    "_?_:_", "_&&_", "_||_", "!_", "_-_", "_+_", "_*_", "_/_", "_%_", "_==_", "_!=_", "_>=_", "_<=_", "_>_", "_<_",
    "-_", "_[_]", "@in",
];
/// What CEL adds when it expands a macro.
const EXPANDED: &str = "@not_strictly_false";
/// Evaluation is recursive, and a level may take 20 KiB of stack: this many fit into a plain thread's. Chains of `&&` and
/// `||` are balanced when they are parsed, and parentheses are no level.
const LEVELS_MAX: usize = 32;

/// What an expression is made of.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<String>,
    /// Literal patterns of `matches`.
    pub(super) patterns: Vec<String>,
    /// Fields read as `lead.<field>` or `lead["<field>"]`.
    pub(super) lead_fields: BTreeSet<String>,
    /// Every field and string that is spelled out.
    pub(super) names: BTreeSet<String>,
}

pub(super) fn check(expression: &IdedExpr, info: &SourceInfo) -> Findings {
    let mut walk = Walk { info, variables: Vec::new(), bodies: 0, level: 0, findings: Findings::default() };
    walk.expression(expression);
    walk.findings.problems.dedup();
    walk.findings
}

struct Walk<'a> {
    info: &'a SourceInfo,
    /// Variables of the comprehensions around this place.
    variables: Vec<&'a str>,
    /// Comprehensions in whose body this place is.
    bodies: usize,
    level: usize,
    findings: Findings,
}

impl<'a> Walk<'a> {
    fn expression(&mut self, node: &'a IdedExpr) {
        self.level += 1;
        if self.level > LEVELS_MAX {
            self.problem(node.id, "the expression is nested too deep");
        } else {
            self.kind(node);
        }
        self.level -= 1;
    }

    fn kind(&mut self, node: &'a IdedExpr) {
        match &node.expr {
            Expr::Ident(name) => self.root(node.id, name),
            Expr::Call(call) => self.call(node.id, call),
            Expr::Comprehension(comprehension) => self.comprehension(node.id, comprehension),
            Expr::Select(select) => {
                self.field(&select.operand, &select.field);
                self.expression(&select.operand);
            }
            Expr::Literal(LiteralValue::String(text)) => {
                self.findings.names.insert(text.inner().to_owned());
            }
            Expr::Literal(_) => {}
            Expr::List(list) => list.elements.iter().for_each(|element| self.expression(element)),
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.expression(&entry.key);
                        self.expression(&entry.value);
                    }
                }
            }
            Expr::Struct(_) | Expr::Unspecified => self.problem(node.id, "messages cannot be made here"),
        }
    }

    fn root(&mut self, id: u64, name: &str) {
        if ROOTS.contains(&name) || self.variables.contains(&name) {
            return;
        }
        let hint = nearest(name, ROOTS.into_iter());
        self.problem(id, &format!("unknown name \"{name}\" (there are lead, source and callback){hint}"));
    }

    fn call(&mut self, id: u64, call: &'a CallExpr) {
        let name = call.func_name.as_str();
        let known = match call.target {
            Some(_) => MEMBER_FUNCTIONS.contains(&name),
            None => FUNCTIONS.contains(&name) || OPERATORS.contains(&name) || (name == EXPANDED && self.bodies > 0),
        };
        if !known {
            let functions = FUNCTIONS.into_iter().chain(MEMBER_FUNCTIONS).chain(MACROS);
            let hint = nearest(name, functions.filter(|function| *function != name));
            self.problem(id, &format!("unknown function \"{name}\" with {} arguments{hint}", call.args.len()));
        }
        if let ("_[_]", [operand, IdedExpr { expr: Expr::Literal(LiteralValue::String(field)), .. }]) =
            (name, &call.args[..])
        {
            self.field(operand, field.inner());
        }
        if let ("matches", Some(IdedExpr { expr: Expr::Literal(LiteralValue::String(pattern)), .. })) =
            (name, call.args.last())
        {
            self.findings.patterns.push(pattern.inner().to_owned());
        }
        call.target.iter().for_each(|target| self.expression(target));
        call.args.iter().for_each(|argument| self.expression(argument));
    }

    fn field(&mut self, operand: &IdedExpr, field: &str) {
        self.findings.names.insert(field.to_owned());
        let of_lead = matches!(&operand.expr, Expr::Ident(name) if name == "lead") && !self.variables.contains(&"lead");
        if of_lead {
            self.findings.lead_fields.insert(field.to_owned());
        }
    }

    /// The list is walked outside: one comprehension over the result of another costs their sum, not their product.
    fn comprehension(&mut self, id: u64, comprehension: &'a ComprehensionExpr) {
        if self.bodies > 0 {
            self.problem(id, "a comprehension inside another one");
            return;
        }
        self.expression(&comprehension.iter_range);
        let outer = self.variables.len();
        self.variables.extend([comprehension.iter_var.as_str(), comprehension.accu_var.as_str()]);
        self.variables.extend(comprehension.iter_var2.as_deref());
        self.bodies += 1;
        self.expression(&comprehension.accu_init);
        self.expression(&comprehension.loop_cond);
        self.expression(&comprehension.loop_step);
        self.expression(&comprehension.result);
        self.bodies -= 1;
        self.variables.truncate(outer);
    }

    fn problem(&mut self, id: u64, what: &str) {
        let place = self.info.offset_for(id).map(|(start, _)| {
            let before: String = self.info.source.chars().take(start as usize).collect();
            let line = 1 + before.matches('\n').count();
            let column = 1 + before.chars().rev().take_while(|character| *character != '\n').count();
            format!(" at {line}:{column}")
        });
        self.findings.problems.push(format!("{what}{}", place.unwrap_or_default()));
    }
}
