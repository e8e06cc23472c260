//! What an attempt's outcome means for its delivery. Pure: the dice are an argument.

use std::time::Duration;

use common::db::attempts::Verdict;
use common::retry::{RETRY_AFTER_MAX, next_wait};
use common::states::{Class, DestinationState, Reason};

use crate::destinations::Outcome;

/// The verdict on `outcome`, after `failures` that used up the schedule before it; `jitter` is uniform in `[0, 1)`.
pub(super) fn judge(outcome: &Outcome, retries: &[Duration], failures: i32, jitter: f64) -> Verdict {
    let asked = outcome.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    let uncounted = |wait, hold| Verdict::Again { wait, failed: false, hold };
    if let Some(reason) = outcome.unsendable {
        return Verdict::Dead(reason);
    }
    match outcome.class {
        Class::Delivered => Verdict::Delivered,
        Class::Permanent => Verdict::Dead(Reason::Terminal),
        Class::Poison => Verdict::Dead(Reason::Poison),
        Class::Unauthorized => uncounted(Duration::ZERO, Some(DestinationState::Paused)),
        Class::Gone => uncounted(Duration::ZERO, Some(DestinationState::Disabled)),
        Class::Transient | Class::Throttled if !outcome.counts => uncounted(asked, None),
        Class::Transient | Class::Throttled => {
            let failures = u32::try_from(failures).unwrap_or_default().saturating_add(1);
            match next_wait(retries, failures, outcome.retry_after, jitter) {
                Some(wait) => Verdict::Again { wait, failed: true, hold: None },
                None => Verdict::Dead(Reason::AttemptsUsed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRIES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];

    fn outcome(class: Class) -> Outcome {
        Outcome::without_answer(class, None)
    }

    fn again(seconds: u64, failed: bool, hold: Option<DestinationState>) -> Verdict {
        Verdict::Again { wait: Duration::from_secs(seconds), failed, hold }
    }

    #[test]
    fn every_class_has_its_verdict() {
        let table = [
            (Class::Delivered, Verdict::Delivered),
            (Class::Permanent, Verdict::Dead(Reason::Terminal)),
            (Class::Poison, Verdict::Dead(Reason::Poison)),
            (Class::Transient, again(5, true, None)),
            (Class::Throttled, again(5, true, None)),
            (Class::Unauthorized, again(0, false, Some(DestinationState::Paused))),
            (Class::Gone, again(0, false, Some(DestinationState::Disabled))),
        ];
        assert_eq!(table.len(), Class::ALL.len());
        for (class, expected) in table {
            assert_eq!(judge(&outcome(class), &RETRIES, 0, 0.0), expected, "{class}");
        }
    }

    #[test]
    fn the_schedule_ends_and_retry_after_only_adds() {
        let mut asked = outcome(Class::Throttled);
        assert_eq!(judge(&asked, &RETRIES, 1, 0.0), again(30, true, None));
        assert_eq!(judge(&asked, &RETRIES, 2, 0.0), Verdict::Dead(Reason::AttemptsUsed));
        asked.retry_after = Some(Duration::from_secs(1));
        assert_eq!(judge(&asked, &RETRIES, 0, 0.0), again(5, true, None));
        asked.retry_after = Some(Duration::from_secs(60));
        assert_eq!(judge(&asked, &RETRIES, 0, 0.0), again(60, true, None));
    }

    #[test]
    fn what_was_not_tried_costs_nothing() {
        let mut cut = outcome(Class::Transient);
        cut.counts = false;
        assert_eq!(judge(&cut, &RETRIES, 2, 0.0), again(0, false, None));
        cut.retry_after = Some(Duration::from_secs(3));
        assert_eq!(judge(&cut, &RETRIES, 2, 0.0), again(3, false, None));
        let mut unsendable = outcome(Class::Poison);
        for reason in [Reason::Unsendable, Reason::RowTooLarge] {
            unsendable.unsendable = Some(reason);
            assert_eq!(judge(&unsendable, &RETRIES, 0, 0.0), Verdict::Dead(reason));
        }
    }
}
