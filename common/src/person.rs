//! Who a lead is, for cool-downs: normalised email, else LinkedIn URL, else company domain and name.

/// A person's hash (SHA-256 over kind and normalised value): what cool-downs compare and tables keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Person(pub [u8; 32]);
