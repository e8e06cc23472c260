//! Destinations: what a lead looks like on its way out, and what the answers mean.
//!
//! A [`Target`] is one configured destination, prepared once: templates compiled, client built, secrets decoded. Its
//! [`Target::send`] makes the requests of one attempt and says in an [`Outcome`] how that went. Nothing here touches
//! the database, decides about retries, or knows of leases beyond "is there time for one more request".

pub mod classify;
pub(crate) mod clay;
pub mod client;
pub mod guard;
mod request;
mod send;
pub mod signing;
pub mod slack;
pub mod template;

use std::sync::Arc;
use std::time::Duration;

use common::config::{Destination, DestinationKind, HttpDestination};
use common::states::{Class, Reason};
use serde_json::Value;

pub use self::clay::RowPreview;

use self::clay::ClayTarget;
use self::client::{ClientProblem, HttpClient};
use self::guard::Guard;
use self::send::HttpTarget;
use self::signing::SecretProblem;
use self::template::TemplateProblem;
use crate::lanes::LeasedDelivery;

/// What of an answer's body is kept with the attempt.
pub const RESPONSE_KEPT_BYTES: usize = 4096;

/// How one attempt went.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What it means for the delivery.
    pub class: Class,
    /// The last answer's HTTP status, where there was one.
    pub status: Option<u16>,
    /// What went wrong, without URL, secret or anything of the lead.
    pub error: Option<String>,
    /// The beginning of the last answer's body, at most [`RESPONSE_KEPT_BYTES`].
    pub response: Vec<u8>,
    /// The step it ended at, from 0.
    pub step: usize,
    /// Steps done and what they captured, where there are steps to remember.
    pub captured: Option<Value>,
    /// How long the destination asked to be left alone.
    pub retry_after: Option<Duration>,
    /// It uses up a place in the retry schedule if it failed.
    pub counts: bool,
    /// The request could not be built from this lead, or would be refused: why.
    pub unsendable: Option<Reason>,
}

impl Outcome {
    /// An outcome without an answer.
    pub fn without_answer(class: Class, error: Option<String>) -> Self {
        Self {
            class,
            status: None,
            error,
            response: Vec::new(),
            step: 0,
            captured: None,
            retry_after: None,
            counts: true,
            unsendable: None,
        }
    }
}

/// What is left of the lease does not outlast another request.
pub(crate) fn too_short() -> Outcome {
    let mut outcome = Outcome::without_answer(Class::Transient, Some("the lease was too short to go on".to_owned()));
    outcome.counts = false;
    outcome
}

/// Why a destination of the configuration cannot be used. Names the setting, never its value.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A template is none.
    #[error("destination {destination}: {what}")]
    Template {
        /// The destination.
        destination: String,
        /// Which of its settings.
        what: String,
        /// What is wrong.
        #[source]
        source: TemplateProblem,
    },
    /// A header's name or value is none.
    #[error("destination {destination}: the header `{header}` is not valid")]
    Header {
        /// The destination.
        destination: String,
        /// The header.
        header: String,
    },
    /// A method that is none.
    #[error("destination {destination}: the method is not valid")]
    Method {
        /// The destination.
        destination: String,
    },
    /// A signing secret that is none.
    #[error("destination {destination}")]
    Secret {
        /// The destination.
        destination: String,
        /// What is wrong.
        #[source]
        source: SecretProblem,
    },
    /// A webhook URL that is none.
    #[error("destination {destination}: webhook URL number {number} is not valid")]
    Webhook {
        /// The destination.
        destination: String,
        /// Its place in the list, from 1.
        number: usize,
    },
    /// TLS cannot be set up.
    #[error("destination {destination}")]
    Client {
        /// The destination.
        destination: String,
        /// What is wrong.
        #[source]
        source: ClientProblem,
    },
}

/// A destination, ready to be sent to.
pub enum Target {
    /// Records only.
    Log,
    /// HTTP requests.
    Http(Box<HttpTarget>),
    /// Rows into a table of Clay, each counted before it is sent (`crate::deliver`).
    Clay(Arc<ClayTarget>),
}

impl Target {
    /// Prepares a destination.
    ///
    /// # Errors
    /// [`PrepareError`] names the setting that cannot be used.
    pub fn prepare(destination: &Destination) -> Result<Self, PrepareError> {
        Self::prepare_with(destination, Guard::new(destination.allow_private))
    }

    /// Prepares a destination with a guard (and so a name resolution) of its own.
    ///
    /// # Errors
    /// As [`Target::prepare`].
    pub fn prepare_with(destination: &Destination, guard: Guard) -> Result<Self, PrepareError> {
        if matches!(destination.kind, DestinationKind::Log) {
            return Ok(Self::Log);
        }
        let client =
            HttpClient::new(guard.clone(), destination.timeout, destination.connect_timeout, destination.concurrency)
                .map_err(|source| PrepareError::Client { destination: destination.name.clone(), source })?;
        if let DestinationKind::Clay(clay) = &destination.kind {
            return ClayTarget::prepare(destination, clay, guard, client).map(|target| Self::Clay(Arc::new(target)));
        }
        HttpTarget::prepare(destination, guard, client).map(|target| Self::Http(Box::new(target)))
    }

    /// Makes the requests of one attempt. `has_time` is asked before each request whether the lease outlives it.
    ///
    /// # Cancel safety
    /// Cancelling closes the connection; the destination may have taken the request.
    pub async fn send(&self, delivery: &LeasedDelivery, has_time: &(dyn Fn() -> bool + Send + Sync)) -> Outcome {
        match self {
            Self::Log => Outcome::without_answer(Class::Delivered, None),
            Self::Http(target) => target.send(delivery, has_time).await,
            Self::Clay(_) => Outcome::without_answer(Class::Poison, Some("a row was to be sent uncounted".to_owned())),
        }
    }
}

/// The requests of one delivery, at most: 1, or as many as there are steps.
pub fn requests_max(destination: &Destination) -> usize {
    match &destination.kind {
        DestinationKind::Http(http) => steps_of(http),
        DestinationKind::Slack(_) | DestinationKind::Clay(_) | DestinationKind::Log => 1,
    }
}

fn steps_of(http: &HttpDestination) -> usize {
    http.steps.len().max(1)
}
