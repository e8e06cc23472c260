//! What the sender of rows is answered.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use common::rows::prepare::RowProblem;
use serde_json::{Map, Value, json};

use super::reading::Ended;
use crate::http::problem::Problem;

/// The answer to a request that was read: 200 where nothing was refused, 207 where some rows were, a problem where none
/// was taken or the body could not be read to its end. A problem says what was taken nevertheless.
pub(super) fn respond(ended: Ended) -> Result<HttpResponse, (Problem, Map<String, Value>)> {
    let Ended { tally, problem, .. } = &ended;
    if tally.alone && problem.is_none() {
        return respond_alone(ended);
    }
    let status = match (problem, tally.counts.refused, tally.has_taken()) {
        (Some(problem), ..) => return Err((problem.clone(), members(&ended))),
        (None, 1.., false) => return Err((Problem::RowsRefused, members(&ended))),
        (None, 1.., true) => StatusCode::MULTI_STATUS,
        (None, 0, _) => StatusCode::OK,
    };
    Ok(json_of(status, &members(&ended)))
}

fn respond_alone(ended: Ended) -> Result<HttpResponse, (Problem, Map<String, Value>)> {
    if let Some(problem) = ended.tally.alone_problem {
        return Err((Problem::Row(problem), Map::new()));
    }
    let Some(row) = ended.tally.rows.first() else { return Err((Problem::Row(RowProblem::Empty), Map::new())) };
    let mut members = Map::new();
    members.insert("received".to_owned(), true.into());
    members.insert("id".to_owned(), json!(row.id));
    members.insert("status".to_owned(), row.status.into());
    members.insert("duplicate".to_owned(), (row.status == "duplicate").into());
    members.extend(row.reason.map(|reason| ("reason".to_owned(), reason.into())));
    Ok(json_of(StatusCode::OK, &members))
}

/// Counts of all rows, and the rows and problems that are listed.
fn members(ended: &Ended) -> Map<String, Value> {
    let Ended { tally, batch, next_line, problem } = ended;
    let counts = tally.counts;
    let (listed, refused) = (tally.rows.len() as u64, tally.problems.len() as u64);
    let members = json!({
        "received": problem.is_none(),
        "batch": batch,
        "next_line": next_line,
        "accepted": counts.accepted,
        "duplicates": counts.duplicates,
        "filtered": counts.filtered,
        "refused": counts.refused,
        "filtered_by": tally.filtered_by,
        "rows": tally.rows,
        "rows_left_out": (counts.accepted + counts.duplicates + counts.filtered).saturating_sub(listed),
        "problems": tally.problems,
        "problems_left_out": counts.refused.saturating_sub(refused),
    });
    match members {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn json_of(status: StatusCode, members: &Map<String, Value>) -> HttpResponse {
    HttpResponse::build(status).content_type("application/json").body(serde_json::to_vec(members).unwrap_or_default())
}
