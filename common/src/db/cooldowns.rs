//! `claygate.cooldowns`: the same person is not sent to the same destination again before `until`.
//!
//! A cool-down is taken inside the transaction that creates the delivery it is for, by a conditional upsert in sorted
//! order. Who loses keeps the row locked until its own commit, so the delivery that blocked it cannot give the
//! cool-down back unseen in between: a skip always names a delivery whose release will find it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::DbError;
use crate::ids::DeliveryId;
use crate::person::Person;

/// A delivery that wants its destination's cool-down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contender {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Where it goes.
    pub destination: String,
    /// To whom.
    pub person: Person,
    /// For how long nobody else may.
    pub once_per: Duration,
    /// An operator sends it: it takes the cool-down from whoever has it.
    pub forced: bool,
}

/// Takes the cool-downs of `contenders`, which stand in the order in which they came in: of several for one person and
/// destination the first wins, unless one of them is forced. Answers for each loser the delivery that blocks it.
///
/// # Errors
/// [`DbError`]; the surrounding transaction is then lost as a whole.
pub async fn take(
    connection: &mut PgConnection,
    contenders: &[Contender],
) -> Result<HashMap<DeliveryId, DeliveryId>, DbError> {
    let folded = fold(contenders);
    let winners: Vec<&Contender> = folded.values().copied().collect();
    if winners.is_empty() {
        return Ok(HashMap::new());
    }
    let destinations: Vec<&str> = winners.iter().map(|w| w.destination.as_str()).collect();
    let persons: Vec<&[u8]> = winners.iter().map(|w| w.person.0.as_slice()).collect();
    let taken: Vec<Uuid> = sqlx::query_scalar(
        "INSERT INTO claygate.cooldowns AS held (destination, person, until, delivery_id)
         SELECT destination, person, now() + make_interval(secs => seconds), delivery_id
         FROM (
             SELECT unnest($1::text[]) AS destination, unnest($2::bytea[]) AS person, unnest($3::uuid[]) AS delivery_id,
                 unnest($4::float8[]) AS seconds
         ) AS i
         ORDER BY destination, person
         ON CONFLICT (destination, person) DO UPDATE SET until = EXCLUDED.until, delivery_id = EXCLUDED.delivery_id
         WHERE held.until <= now() OR EXCLUDED.delivery_id = ANY($5)
         RETURNING delivery_id",
    )
    .bind(&destinations)
    .bind(&persons)
    .bind(winners.iter().map(|w| w.delivery.0).collect::<Vec<_>>())
    .bind(winners.iter().map(|w| w.once_per.as_secs_f64()).collect::<Vec<_>>())
    .bind(winners.iter().filter(|w| w.forced).map(|w| w.delivery.0).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    let holders: HashMap<(String, [u8; 32]), DeliveryId> = if taken.len() == winners.len() {
        winners.iter().map(|w| ((w.destination.clone(), w.person.0), w.delivery)).collect()
    } else {
        holders(connection, &destinations, &persons).await?
    };
    Ok(contenders
        .iter()
        .filter(|contender| !contender.forced)
        .filter_map(|contender| {
            let holder = holders.get(&(contender.destination.clone(), contender.person.0))?;
            (*holder != contender.delivery).then_some((contender.delivery, *holder))
        })
        .collect())
}

/// Who holds the cool-downs now. The upsert before has locked these rows, whoever won.
async fn holders(
    connection: &mut PgConnection,
    destinations: &[&str],
    persons: &[&[u8]],
) -> Result<HashMap<(String, [u8; 32]), DeliveryId>, DbError> {
    let rows = sqlx::query(
        "SELECT destination, person, delivery_id FROM claygate.cooldowns
         JOIN unnest($1::text[], $2::bytea[]) AS i (destination, person) USING (destination, person)",
    )
    .bind(destinations)
    .bind(persons)
    .fetch_all(connection)
    .await?;
    let mut holders = HashMap::with_capacity(rows.len());
    for row in &rows {
        let person: Vec<u8> = row.try_get("person")?;
        if let Ok(person) = <[u8; 32]>::try_from(person) {
            holders.insert((row.try_get("destination")?, person), DeliveryId(row.try_get("delivery_id")?));
        }
    }
    Ok(holders)
}

/// One contender per destination and person, sorted: the first forced one, else the first.
fn fold(contenders: &[Contender]) -> BTreeMap<(&str, [u8; 32]), &Contender> {
    let mut folded: BTreeMap<(&str, [u8; 32]), &Contender> = BTreeMap::new();
    for contender in contenders {
        folded
            .entry((&contender.destination, contender.person.0))
            .and_modify(|held| {
                if contender.forced && !held.forced {
                    *held = contender;
                }
            })
            .or_insert(contender);
    }
    folded
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn contender(destination: &str, person: u8, forced: bool) -> Contender {
        Contender {
            delivery: DeliveryId::new(),
            destination: destination.to_owned(),
            person: Person([person; 32]),
            once_per: Duration::from_secs(60),
            forced,
        }
    }

    #[test]
    fn the_first_of_one_person_stands_unless_one_is_forced() {
        let all = [
            contender("b", 1, false),
            contender("a", 1, false),
            contender("a", 1, false),
            contender("b", 1, true),
            contender("b", 1, true),
        ];
        let folded: Vec<_> = fold(&all).into_values().map(|c| c.delivery).collect();
        assert_eq!(folded, [all[1].delivery, all[3].delivery]);
    }
}
