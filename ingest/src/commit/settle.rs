//! Decides what every entry of a batch is: new, a repeat, a revision, a conflict, or nothing that Postgres takes.
//!
//! Equal keys are folded into one group, in order of arrival; groups are sorted by source and key. In each round every
//! group has at most one callback in the statement: its first sighting (revision 0), or the revision after the one
//! that it was compared with. A round trip therefore serves the whole batch, and what another writer inserted first is
//! simply compared again: `UNIQUE (source, key, revision)` is the lock, and nothing can deadlock on it.
//!
//! While nothing is repeated a batch is written without a look for its keys (`Session::store_first`); the first repeat makes
//! that statement fail as a whole, and the batch, and those of the next seconds, go the way above.
//!
//! Safe to run again with the same entries: what is there already is found by its id.

use std::collections::HashMap;

use common::config::Changed;
use common::db::DbError;
use common::db::callback_aliases::Alias;
use common::db::intake::{Candidate, Counted, Found, Incoming, Latest, Stored};
use common::db::quarantine::{Problem, Unusable};
use common::ids::CallbackId;
use common::states::Reason;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::session::Session;
use super::{Entry, Outcome};

/// Rounds after which a batch gives up. Every round settles something in every group, or another writer did.
const ROUNDS_MAX: usize = 2_048;

/// What a changed body under an explicit key means, by source.
pub(crate) trait Policy: Send + Sync {
    /// The source's setting.
    fn changed(&self, source: &str) -> Changed;
}

/// Settles `entries`; `outcomes` has one place for each, in the same order.
///
/// # Errors
/// [`DbError`] when Postgres is away. What is in `outcomes` by then is committed; the rest is not known to be.
pub(crate) async fn settle(
    session: &mut Session,
    entries: &[Entry],
    policy: &dyn Policy,
    outcomes: &mut [Option<Outcome>],
) -> Result<(), DbError> {
    let mut settling = Settling { session, entries, policy, outcomes, repeats: Vec::new(), unusable: Vec::new() };
    // After a failure the connection may still be busy with a statement: nothing more is asked of it.
    settling.run_rounds().await?;
    settling.write_repeats().await?;
    settling.write_unusable().await
}

struct Settling<'a> {
    session: &'a mut Session,
    entries: &'a [Entry],
    policy: &'a dyn Policy,
    outcomes: &'a mut [Option<Outcome>],
    /// Entries that turned out to be repeats, and what they repeat.
    repeats: Vec<(usize, Newest)>,
    /// Callbacks that go to quarantine instead.
    unusable: Vec<(usize, Unusable)>,
}

/// The newest revision of a group's key, and when this was known.
#[derive(Clone, Copy)]
struct Newest {
    latest: Latest,
    now: OffsetDateTime,
}

#[derive(Clone, Copy)]
enum Known {
    /// Nothing yet: try revision 0.
    Unseen,
    /// There is something: look.
    Something,
    /// This.
    Newest(Newest),
}

/// Callbacks of one key, by index, in order of arrival.
struct Group {
    waiting: std::collections::VecDeque<usize>,
    known: Known,
}

/// What a callback is beside the newest revision of its key.
enum Decision {
    Present,
    Repeat,
    Conflict,
    Revision { number: i32, skip: Option<Reason> },
}

impl Settling<'_> {
    async fn run_rounds(&mut self) -> Result<(), DbError> {
        let mut groups = group_by_key(self.entries);
        for _ in 0..ROUNDS_MAX {
            self.look_up(&mut groups).await?;
            let proposals = self.propose(&mut groups);
            groups.retain(|group| !group.waiting.is_empty());
            if groups.is_empty() {
                return Ok(());
            }
            self.store(&mut groups, &proposals).await?;
        }
        Err(DbError::timed_out(std::time::Duration::ZERO))
    }

    fn incoming(&self, index: usize) -> Option<&Incoming> {
        incoming(self.entries, index)
    }

    /// Reads the newest revision where all that is known is that there is one.
    async fn look_up(&mut self, groups: &mut [Group]) -> Result<(), DbError> {
        let entries = self.entries;
        let asked: Vec<(&mut Group, usize, &Incoming)> = groups
            .iter_mut()
            .filter(|group| matches!(group.known, Known::Something))
            .filter_map(|group| {
                let front = *group.waiting.front()?;
                Some((group, front, incoming(entries, front)?))
            })
            .collect();
        if asked.is_empty() {
            return Ok(());
        }
        let keys: Vec<&Incoming> = asked.iter().map(|(_, _, incoming)| *incoming).collect();
        let answers = self.session.look_up(&keys).await?;
        for ((group, front, _), Found { latest, present, now }) in asked.into_iter().zip(answers) {
            if present {
                self.outcomes[front] = Some(Outcome::Present);
                group.waiting.pop_front();
            }
            // A key that retention removed in the meantime starts anew.
            group.known = latest.map_or(Known::Unseen, |latest| Known::Newest(Newest { latest, now }));
        }
        Ok(())
    }

    /// Works each group off up to its next write, and answers the writes: one per group, in the groups' order, as
    /// (entry, revision, skip).
    fn propose(&mut self, groups: &mut [Group]) -> Vec<(usize, i32, Option<Reason>)> {
        let mut proposals = Vec::with_capacity(groups.len());
        for group in groups {
            while let Some(&front) = group.waiting.front() {
                let Some(incoming) = self.incoming(front) else {
                    group.waiting.pop_front();
                    continue;
                };
                let Known::Newest(newest) = group.known else {
                    proposals.push((front, 0, incoming.skip));
                    break;
                };
                match decide(incoming, &newest.latest, self.policy) {
                    Decision::Revision { number, skip } => {
                        proposals.push((front, number, skip));
                        break;
                    }
                    Decision::Present => self.outcomes[front] = Some(Outcome::Present),
                    Decision::Repeat => self.repeats.push((front, newest)),
                    Decision::Conflict => {
                        let unusable = into_unusable(incoming, Problem::Conflict, "the key was used with other data");
                        self.unusable.push((front, unusable));
                    }
                }
                group.waiting.pop_front();
            }
        }
        proposals
    }

    /// Writes the proposals; what was not written has lost its place to another and is compared again.
    async fn store(&mut self, groups: &mut [Group], proposals: &[(usize, i32, Option<Reason>)]) -> Result<(), DbError> {
        let entries = self.entries;
        let candidates: Vec<Candidate<'_>> = proposals
            .iter()
            .filter_map(|&(index, revision, skip)| {
                incoming(entries, index).map(|incoming| Candidate { incoming, revision, skip })
            })
            .collect();
        let mut stored = HashMap::with_capacity(candidates.len());
        let mut refused = Vec::new();
        let done = store(self.session, &candidates, &mut stored, &mut refused).await;
        for (group, candidate) in groups.iter_mut().zip(&candidates) {
            let Some(&front) = group.waiting.front() else { continue };
            let id = candidate.incoming.id;
            if let Some(&received_at) = stored.get(&id) {
                self.outcomes[front] = Some(match candidate.skip {
                    None => Outcome::Accepted { id, at: received_at },
                    Some(_) => Outcome::Recorded { id, at: received_at },
                });
                let digest = candidate.incoming.digest;
                let latest = Latest { id, revision: candidate.revision, digest, received_at };
                group.known = Known::Newest(Newest { latest, now: received_at });
                group.waiting.pop_front();
            } else if let Some((_, detail)) = refused.iter().find(|(refused, _)| *refused == id) {
                self.unusable.push((front, into_unusable(candidate.incoming, Problem::Refused, detail)));
                group.waiting.pop_front();
            } else {
                group.known = Known::Something;
            }
        }
        done
    }

    /// Counts the repeats, with an alias for those that were answered with an id of their own.
    async fn write_repeats(&mut self) -> Result<(), DbError> {
        let repeats = std::mem::take(&mut self.repeats);
        let entries = self.entries;
        let counted: Vec<(&str, Counted, Option<OffsetDateTime>)> = repeats
            .iter()
            .filter_map(|&(index, _)| incoming(entries, index))
            .filter(|incoming| incoming.received_at.is_none())
            .map(|incoming| (&*incoming.source, Counted::Duplicate, None))
            .collect();
        let aliases: Vec<Alias<'_>> = repeats
            .iter()
            .filter_map(|&(index, newest)| {
                let incoming = incoming(entries, index)?;
                let received_at = incoming.received_at?;
                let (alias_id, callback_id) = (incoming.id, newest.latest.id);
                Some(Alias { alias_id, callback_id, source: &incoming.source, received_at })
            })
            .collect();
        if !counted.is_empty() {
            self.session.count(&counted).await?;
        }
        if !aliases.is_empty() {
            self.session.add_aliases(&aliases).await?;
        }
        for (index, Newest { latest, now }) in repeats {
            self.outcomes[index] =
                Some(Outcome::Duplicate { id: latest.id, first_received_at: latest.received_at, at: now });
        }
        Ok(())
    }

    /// Writes what goes to quarantine: what came so, conflicts, and what Postgres refused. Halves it where something is
    /// refused even there.
    async fn write_unusable(&mut self) -> Result<(), DbError> {
        let turned = std::mem::take(&mut self.unusable);
        let born = self.entries.iter().enumerate().filter_map(|(index, entry)| match entry {
            Entry::Unusable(unusable) => Some((index, unusable)),
            Entry::Callback(_) => None,
        });
        let all: Vec<(usize, &Unusable)> =
            born.chain(turned.iter().map(|(index, unusable)| (*index, unusable))).collect();
        if all.is_empty() {
            return Ok(());
        }
        let mut parts = vec![&all[..]];
        while let Some(part) = parts.pop() {
            let rows: Vec<&Unusable> = part.iter().map(|(_, unusable)| *unusable).collect();
            match (self.session.quarantine(&rows).await, part) {
                (Ok(kept), _) => {
                    for (&(index, unusable), (id, _)) in part.iter().zip(kept) {
                        self.outcomes[index] = Some(Outcome::Quarantined { id, problem: unusable.problem });
                    }
                }
                (Err(error @ DbError::Refused { .. }), [(index, unusable)]) => {
                    tracing::error!(id = %unusable.id, %error, "Postgres refuses a body even in quarantine");
                    self.outcomes[*index] = Some(Outcome::Unavailable);
                }
                (Err(DbError::Refused { .. }), several) => {
                    let (first, second) = several.split_at(several.len() / 2);
                    parts.extend([second, first]);
                }
                (Err(error), _) => return Err(error),
            }
        }
        Ok(())
    }
}

fn incoming(entries: &[Entry], index: usize) -> Option<&Incoming> {
    match entries.get(index) {
        Some(Entry::Callback(incoming)) => Some(incoming),
        _ => None,
    }
}

/// Groups of equal keys, sorted by source and key; within a group the order of arrival.
fn group_by_key(entries: &[Entry]) -> Vec<Group> {
    let mut order: Vec<(&str, &[u8; 32], usize)> = entries
        .iter()
        .enumerate()
        .filter_map(|(index, entry)| match entry {
            Entry::Callback(incoming) => Some((&*incoming.source, &incoming.key.hash, index)),
            Entry::Unusable(_) => None,
        })
        .collect();
    order.sort_unstable();
    order
        .chunk_by(|one, other| (one.0, one.1) == (other.0, other.1))
        .map(|same| Group { waiting: same.iter().map(|(.., index)| *index).collect(), known: Known::Unseen })
        .collect()
}

fn decide(incoming: &Incoming, latest: &Latest, policy: &dyn Policy) -> Decision {
    if latest.id == incoming.id {
        return Decision::Present;
    }
    if !incoming.key.kind.is_explicit() || latest.digest == incoming.digest {
        return Decision::Repeat;
    }
    let number = latest.revision + 1;
    let superseded = incoming.received_at.is_some_and(|received_at| received_at < latest.received_at);
    match policy.changed(&incoming.source) {
        Changed::Conflict => Decision::Conflict,
        Changed::Record => Decision::Revision { number, skip: incoming.skip.or(Some(Reason::Recorded)) },
        Changed::Accept => {
            Decision::Revision { number, skip: incoming.skip.or(superseded.then_some(Reason::Superseded)) }
        }
    }
}

/// Writes `candidates`: as first sightings, where that can be and is likely to succeed, else with a look for each key.
async fn store(
    session: &mut Session,
    candidates: &[Candidate<'_>],
    stored: &mut HashMap<CallbackId, OffsetDateTime>,
    refused: &mut Vec<(CallbackId, String)>,
) -> Result<(), DbError> {
    let are_first = candidates.iter().all(|row| row.revision == 0 && row.incoming.received_at.is_none());
    if are_first && let Some(received_at) = session.store_first(candidates).await? {
        stored.extend(candidates.iter().map(|row| (row.incoming.id, received_at)));
        return Ok(());
    }
    store_bisecting(session, candidates, stored, refused).await?;
    if stored.len() < candidates.len() {
        session.expect_repeats();
    }
    Ok(())
}

/// Writes `candidates`; where Postgres refuses a row, halves them until that row stands alone.
async fn store_bisecting(
    session: &mut Session,
    candidates: &[Candidate<'_>],
    stored: &mut HashMap<CallbackId, OffsetDateTime>,
    refused: &mut Vec<(CallbackId, String)>,
) -> Result<(), DbError> {
    let mut parts = vec![candidates];
    while let Some(part) = parts.pop() {
        match session.store(part).await {
            Ok(rows) => stored.extend(rows.into_iter().map(|Stored { id, received_at }| (id, received_at))),
            Err(error @ DbError::Refused { .. }) => match part {
                [] => {}
                [one] => {
                    tracing::error!(callback = %one.incoming.id, %error, "Postgres refuses a callback");
                    refused.push((one.incoming.id, error.to_string()));
                }
                several => {
                    let (first, second) = several.split_at(several.len() / 2);
                    parts.extend([second, first]);
                }
            },
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn into_unusable(incoming: &Incoming, problem: Problem, detail: &str) -> Unusable {
    Unusable {
        id: incoming.id,
        source: incoming.source.clone(),
        problem,
        detail: detail.to_owned(),
        digest: Sha256::digest(&incoming.body).into(),
        body: incoming.body.clone(),
        headers: incoming.headers.clone(),
        received_at: incoming.received_at,
    }
}
