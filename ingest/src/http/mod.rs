//! The public port: what a sender's request goes through, from its first byte to its answer.
//!
//! [`receive`] is the way of a request; [`admission`] bounds what is taken at once, [`body`] reads, [`headers`] keeps
//! what may be kept, [`problem`] and [`answer`] are what goes back. Nothing here touches the database.
//!
//! What cannot be parsed as HTTP never gets here: actix answers it by itself, with the bare status and an empty body, and
//! offers no place to change that. These are 400 (broken request line, header or framing), 408 (headers that come too
//! slowly) and 431 (a head above 128 KiB, or of more than 96 fields); what lies between the configured number of fields and
//! that is answered here, with problem JSON.

pub(crate) mod admission;
pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod headers;
pub(crate) mod problem;
pub(crate) mod receive;
