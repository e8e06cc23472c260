//! Standard Webhooks signatures of what we send (standardwebhooks.com, "v1", symmetric).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::ids::DeliveryId;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;

/// A signing secret that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signing_secret has to be whsec_ followed by base64")]
pub struct SecretProblem;

/// Signs requests of one destination.
#[derive(Clone, Debug)]
pub struct Signer {
    key: SecretSlice<u8>,
}

impl Signer {
    /// A signer with a `whsec_<base64>` secret.
    ///
    /// # Errors
    /// [`SecretProblem`] when it is not one, or empty.
    pub fn new(secret: &SecretString) -> Result<Self, SecretProblem> {
        let encoded = secret.expose_secret().strip_prefix("whsec_").ok_or(SecretProblem)?;
        let key = STANDARD.decode(encoded).map_err(|_| SecretProblem)?;
        if key.is_empty() {
            return Err(SecretProblem);
        }
        Ok(Self { key: key.into() })
    }

    /// The value of `webhook-signature` over `id`, `timestamp` (Unix seconds) and the body.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.key.expose_secret()) else {
            // HMAC takes keys of any length.
            return String::new();
        };
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// The id of one request: the delivery's, stable over retries. Later steps of a delivery are requests of their own and
/// must not look like repeats of the first.
pub fn request_id(delivery: DeliveryId, step: usize) -> String {
    if step == 0 { delivery.to_string() } else { format!("{delivery}-{}", step + 1) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_reference_implementation_makes_the_same_signature() {
        let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        let oracle = standardwebhooks::Webhook::new(secret).unwrap();
        let signer = Signer::new(&SecretString::from(secret)).unwrap();
        for body in [&b""[..], b"{}", "{\"name\":\"Ada \u{1F600}\"}".as_bytes()] {
            assert_eq!(signer.sign("id_1", 1_700_000_000, body), oracle.sign("id_1", 1_700_000_000, body).unwrap());
        }
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for text in ["", "whsec_", "whsec_***", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"] {
            assert_eq!(Signer::new(&SecretString::from(text)).unwrap_err(), SecretProblem, "{text}");
        }
    }
}
