//! The callbacks of a load: realistic bodies that differ in their last fields alone, proven at next to no cost.
//!
//! What differs stands at the end and has a fixed width. So a request is a copy with some digits written over, and its
//! HMAC goes on from a state that already holds everything before them: two compressions, whatever the body's length.

use std::fmt::Write;
use std::net::SocketAddr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{Plan, Proof};

/// In front of the callback's number in the body; destinations look for it.
pub(crate) const NUMBER_MARK: &str = r#""bench_number":""#;
/// Digits of the number.
pub(crate) const NUMBER_DIGITS: usize = 16;
/// In front of the moment that it was to be sent at, in nanoseconds of the machine's monotonic clock.
pub(crate) const SENT_MARK: &str = r#""bench_sent_ns":""#;
/// Digits of that moment.
pub(crate) const SENT_DIGITS: usize = 20;

const LEAD: &str = r#"{"first_name":"Ada","last_name":"Lovelace","company_name":"Analytical Engines Ltd","company_domain":"analytical-engines.example","job_title":"Head of Computing","employee_count":"1,200","industry":"Computer Hardware","linkedin_url":null,"icp_score":"85","personalized_opener":"Your note on the Bernoulli numbers made our week."#;
const ENTRY: &str = r#"{"title":"Engineer","company":"Example Ltd","years":3},"#;

/// One request, made over and over with other numbers.
pub(crate) struct Callback {
    bytes: Vec<u8>,
    /// Where the body's changing part begins.
    tail_at: usize,
    numbers_at: Vec<usize>,
    sent_at: usize,
    /// Where the signature's digits go, and the state over the body up to the changing part.
    signature: Option<(usize, Hmac<Sha256>)>,
}

impl Callback {
    /// The request of `plan` to `address`.
    ///
    /// # Errors
    /// Never for the plans of this program; a key of any length is good for an HMAC.
    pub(crate) fn new(plan: &Plan, address: SocketAddr) -> anyhow::Result<Self> {
        let tail = format!(
            r#""email":"lead-{:0NUMBER_DIGITS$}@leads.example",{NUMBER_MARK}{:0NUMBER_DIGITS$}",{SENT_MARK}{:0SENT_DIGITS$}"}}"#,
            0, 0, 0
        );
        let front = front(plan.body_bytes.saturating_sub(tail.len()));
        let mut head = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             user-agent: bench\r\naccept: */*\r\nx-clay-signature: ",
            plan.path,
            address,
            front.len() + tail.len()
        );
        let signature = match plan.proof {
            Proof::Token => {
                head.push_str(&plan.secret);
                None
            }
            Proof::Hmac => {
                head.push_str("sha256=");
                let at = head.len();
                write!(head, "{:064}", 0)?;
                let mut state = Hmac::<Sha256>::new_from_slice(plan.secret.as_bytes())?;
                state.update(front.as_bytes());
                Some((at, state))
            }
        };
        let tail_at = head.len() + 4 + front.len();
        let bytes = format!("{head}\r\n\r\n{front}{tail}").into_bytes();
        let after = |mark: &str| tail.find(mark).map_or(0, |at| tail_at + at + mark.len());
        let numbers_at = vec![after(r#""email":"lead-"#), after(NUMBER_MARK)];
        Ok(Self { bytes, tail_at, numbers_at, sent_at: after(SENT_MARK), signature })
    }

    /// The request of callback `number`. The same arguments give the same bytes.
    pub(crate) fn write(&mut self, number: u64, sent_ns: u64) -> &[u8] {
        for at in &self.numbers_at {
            write_digits(&mut self.bytes, *at, NUMBER_DIGITS, number);
        }
        write_digits(&mut self.bytes, self.sent_at, SENT_DIGITS, sent_ns);
        if let Some((at, state)) = &self.signature {
            let mut state = state.clone();
            state.update(self.bytes.get(self.tail_at..).unwrap_or_default());
            let digits = hex::encode(state.finalize().into_bytes());
            if let Some(place) = self.bytes.get_mut(*at..*at + digits.len()) {
                place.copy_from_slice(digits.as_bytes());
            }
        }
        &self.bytes
    }
}

/// The body up to its changing part, about `bytes` long: the lead, and where that is not enough its work history.
fn front(bytes: usize) -> String {
    let mut front = LEAD.to_owned();
    let history = r#"","experience":["#;
    if bytes > front.len() + history.len() + 2 * ENTRY.len() {
        front.push_str(history);
        while front.len() + ENTRY.len() < bytes {
            front.push_str(ENTRY);
        }
        front.pop();
        front.push_str("],");
    } else {
        let missing = bytes.saturating_sub(front.len() + 2);
        front.extend(" Shall we talk?".chars().cycle().take(missing));
        front.push_str(r#"","#);
    }
    front
}

fn write_digits(bytes: &mut [u8], at: usize, digits: usize, mut value: u64) {
    for place in bytes.get_mut(at..at + digits).unwrap_or_default().iter_mut().rev() {
        // The remainder is below ten.
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::roles::load::Pace;

    fn callback(proof: Proof, body_bytes: usize) -> Callback {
        let plan = Plan {
            addresses: Vec::new(),
            path: "/hmac".to_owned(),
            secret: "swordfish".to_owned(),
            proof,
            body_bytes,
            half_repeats: false,
            stamped: true,
            pace: Pace::Closed { connections: 1 },
            warm_up_ms: 0,
            piece_ms: 0,
        };
        Callback::new(&plan, "127.0.0.1:80".parse().unwrap()).unwrap()
    }

    fn split(request: &[u8]) -> (String, String) {
        let text = String::from_utf8(request.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    #[test]
    fn a_request_is_whole_signed_and_about_as_long_as_asked() {
        for bytes in [600, 20_000] {
            let mut callback = callback(Proof::Hmac, bytes);
            callback.write(41, 1);
            let (head, body) = split(callback.write(42, 7));
            assert!(body.len().abs_diff(bytes) < 60, "{} for {bytes}", body.len());
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
            let lead: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(lead["bench_number"], "0000000000000042");
            assert_eq!(lead["bench_sent_ns"], "00000000000000000007");
            assert_eq!(lead["email"], "lead-0000000000000042@leads.example");

            let mut mac = Hmac::<Sha256>::new_from_slice(b"swordfish").unwrap();
            mac.update(body.as_bytes());
            let signature = hex::encode(mac.finalize().into_bytes());
            assert!(head.contains(&format!("x-clay-signature: sha256={signature}")), "{head}");
        }
    }

    #[test]
    fn a_token_stands_in_the_header_as_it_is() {
        let mut callback = callback(Proof::Token, 600);
        let (head, _) = split(callback.write(1, 0));
        assert!(head.ends_with("x-clay-signature: swordfish"), "{head}");
    }

    #[test]
    fn a_repeat_is_the_same_bytes() {
        let mut callback = callback(Proof::Hmac, 600);
        let first = callback.write(5, 0).to_vec();
        callback.write(6, 0);
        assert_eq!(callback.write(5, 0), first);
    }
}
