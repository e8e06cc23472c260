//! The books as text.

use std::fmt::{self, Display, Formatter};

use common::db::books::{Check, Difference, Report, Spool, Verdict};

use crate::commands::since::shown;

/// What a person reads.
pub(super) struct Text<'a>(pub(super) &'a Report);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Report { since, until, totals, .. } = self.0;
        let deliveries = &totals.deliveries;
        writeln!(f, "The books from {} to {}\n", shown(*since), shown(*until))?;
        writeln!(
            f,
            "received   {:>10}  = new {} + duplicate {} + conflict {} + quarantined {}",
            totals.received, totals.new, totals.duplicate, totals.conflict, totals.quarantined
        )?;
        writeln!(
            f,
            "callbacks  {:>10}  = routed {} + skipped {} + dead {} + in progress {}",
            totals.callbacks(),
            totals.routed,
            totals.skipped,
            totals.dead,
            totals.in_progress
        )?;
        writeln!(
            f,
            "deliveries {:>10}  = delivered {} + skipped {} + dead {} + cancelled {} + in progress {}\n",
            deliveries.all,
            deliveries.delivered,
            deliveries.skipped,
            deliveries.dead,
            deliveries.cancelled,
            deliveries.in_progress
        )?;
        self.0.differences.iter().try_for_each(|difference| write_difference(f, difference))?;
        self.0.spools.iter().filter(|spool| spool.silent).try_for_each(|spool| write_spool(f, spool))?;
        let verdict = match self.0.verdict {
            Verdict::Balanced => "Balanced.".to_owned(),
            Verdict::Incomplete => "INCOMPLETE: what is in the database balances; a spool may hold more.".to_owned(),
            Verdict::Different => format!("DIFFERENT: {} of them.", self.0.differences.len()),
        };
        writeln!(f, "{verdict}")
    }
}

fn write_difference(f: &mut Formatter<'_>, difference: &Difference) -> fmt::Result {
    let Difference { check, source, hour, expected, found, ids } = difference;
    let source = source.as_deref().map(|source| format!(", source {source}")).unwrap_or_default();
    let hour = hour.map(|hour| format!(", hour {}", shown(hour))).unwrap_or_default();
    let what = match check {
        Check::Callbacks if found < expected => {
            format!("{expected} callbacks were counted and {found} are there; gone")
        }
        Check::Callbacks => format!("{expected} callbacks were counted and {found} are there; not from the intake"),
        Check::Quarantine => format!("{expected} were counted as quarantined or in conflict; in quarantine: {found}"),
        Check::Decisions => format!("{found} callbacks whose state is not what was decided"),
        Check::Deliveries => format!("{found} callbacks that have not the deliveries which their decision meant"),
        Check::Attempts => format!("{found} deliveries that count other attempts than there are"),
        Check::Outcomes => format!("{found} deliveries whose state is not what their attempts say"),
        Check::StrayAttempts => format!("{found} attempts of deliveries that are not there"),
        Check::StrayDeliveries => format!("{found} deliveries of callbacks or rows that are not there"),
        Check::Rows => format!("{found} rows that no delivery stands for"),
        Check::Bodies => format!("{found} callbacks that wait for their routing and have no body"),
        Check::StuckCallbacks => {
            format!("{found} callbacks that wait, are not in the outbox, and no worker has looked for")
        }
        Check::StuckDeliveries => {
            format!("{found} deliveries that wait, are not in the outbox, and no worker has looked for")
        }
    };
    writeln!(f, "{what}{source}{hour}")?;
    ids.iter().try_for_each(|id| writeln!(f, "  {id}"))?;
    if !ids.is_empty() && i64::try_from(ids.len()).is_ok_and(|named| named < (found - expected).abs()) {
        writeln!(f, "  and more")?;
    }
    writeln!(f)
}

fn write_spool(f: &mut Formatter<'_>, spool: &Spool) -> fmt::Result {
    let Spool { instance, host, last_seen_at, entries, stopped, .. } = spool;
    let how = if *stopped { "stopped" } else { "has been silent since" };
    writeln!(
        f,
        "The intake on {host} {how} {}; its spool held {entries} callbacks then. Start it again on the same folder,\n\
         or, if that is lost: claygate verify --forget {instance}\n",
        shown(*last_seen_at)
    )
}
