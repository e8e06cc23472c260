//! How much is taken at once, in requests and bytes. Beyond it senders get 429 with Retry-After, which Clay retries by
//! default (it does not retry 5xx).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The limits of one process and what is used of them.
#[derive(Debug)]
pub(crate) struct Admission {
    requests_max: usize,
    bytes_max: usize,
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

/// A request's share; gives it back when dropped. Travels with the entry, so that a disconnected client's work counts.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    bytes: usize,
}

/// Too much is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overloaded;

impl Admission {
    pub(crate) fn new(requests_max: usize, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { requests_max, bytes_max, requests: AtomicUsize::new(0), bytes: AtomicUsize::new(0) })
    }

    /// Takes a request in, with `bytes` of body announced.
    pub(crate) fn admit(self: &Arc<Self>, bytes: usize) -> Result<Permit, Overloaded> {
        take(&self.requests, 1, self.requests_max)?;
        let mut permit = Permit { admission: Arc::clone(self), bytes: 0 };
        permit.grow_to(bytes)?;
        Ok(permit)
    }
}

impl Permit {
    /// How many requests are in flight, this one included.
    pub(crate) fn requests_in_flight(&self) -> usize {
        self.admission.requests.load(Ordering::Relaxed)
    }

    /// Takes more bytes in, where more came than was announced.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> Result<(), Overloaded> {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            take(&self.admission.bytes, more, self.admission.bytes_max)?;
            self.bytes += more;
        }
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.admission.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

fn take(used: &AtomicUsize, count: usize, max: usize) -> Result<(), Overloaded> {
    if used.fetch_add(count, Ordering::Relaxed) + count > max {
        used.fetch_sub(count, Ordering::Relaxed);
        return Err(Overloaded);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_it_took() {
        let admission = Admission::new(2, 100);
        let first = admission.admit(60).ok();
        assert!(first.is_some());
        assert_eq!(admission.admit(60).err(), Some(Overloaded), "bytes");
        let second = admission.admit(0).ok();
        assert_eq!(admission.admit(0).err(), Some(Overloaded), "requests");
        assert!(second.is_some_and(|mut permit| permit.grow_to(40).is_ok() && permit.grow_to(41).is_err()));
        drop(first);
        assert!(admission.admit(100).is_ok(), "everything is free again");
    }
}
