//! Who is really at work: every loop of the worker beats, and `/readyz` tells which one has stopped.
//!
//! Answers come from memory, so a probe does not hang when the thing it watches hangs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::telemetry::{Probe, Verdict};

/// A loop that has not beaten for so long is not working. Consumers beat at every poll, about once a second.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// The health of one worker. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    inner: Arc<Inner>,
}

struct Inner {
    started: Instant,
    loops: Mutex<BTreeMap<String, Watched>>,
    warnings: Mutex<BTreeMap<&'static str, String>>,
}

struct Watched {
    beat: Arc<AtomicU64>,
    silent_after: Duration,
}

/// The beat of one loop. When it is dropped, the loop counts as stopped.
pub struct Beat {
    inner: Arc<Inner>,
    last: Arc<AtomicU64>,
}

impl Default for Health {
    fn default() -> Self {
        let inner = Inner { started: Instant::now(), loops: Mutex::default(), warnings: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }
}

impl Health {
    /// Watches a loop that beats every second or so.
    pub fn watch(&self, name: impl Into<String>) -> Beat {
        self.watch_every(name, Duration::ZERO)
    }

    /// Watches a loop that beats every `interval`.
    pub fn watch_every(&self, name: impl Into<String>, interval: Duration) -> Beat {
        let beat = Beat { inner: Arc::clone(&self.inner), last: Arc::new(AtomicU64::new(0)) };
        beat.beat();
        let watched = Watched { beat: Arc::clone(&beat.last), silent_after: SILENT_AFTER + 2 * interval };
        lock(&self.inner.loops).insert(name.into(), watched);
        beat
    }

    /// Sets or clears what an operator should know although everything works.
    pub fn warn(&self, topic: &'static str, warning: Option<String>) {
        let mut warnings = lock(&self.inner.warnings);
        match warning {
            Some(text) => drop(warnings.insert(topic, text)),
            None => drop(warnings.remove(topic)),
        }
    }
}

impl Beat {
    /// Says that the loop has got somewhere.
    pub fn beat(&self) {
        self.last.store(elapsed_ms(&self.inner), Ordering::Relaxed);
    }
}

impl Probe for Health {
    fn name(&self) -> &str {
        "worker"
    }

    fn check(&self) -> Verdict {
        let now = elapsed_ms(&self.inner);
        let silent: Vec<String> = lock(&self.inner.loops)
            .iter()
            .filter_map(|(name, watched)| {
                let silence = Duration::from_millis(now.saturating_sub(watched.beat.load(Ordering::Relaxed)));
                (silence > watched.silent_after).then(|| format!("{name} silent for {} s", silence.as_secs()))
            })
            .collect();
        let verdict = if lock(&self.inner.loops).is_empty() {
            Verdict::not_ready("starting")
        } else if silent.is_empty() {
            Verdict::ready()
        } else {
            Verdict::not_ready(silent.join("; "))
        };
        lock(&self.inner.warnings).values().fold(verdict, Verdict::with_warning)
    }
}

fn elapsed_ms(inner: &Inner) -> u64 {
    u64::try_from(inner.started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The maps behind the locks are whole at every point where a panic could happen.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
