//! Numbers in sentences.

/// `1 row`, `2 rows`: a noun whose plural has an s more.
pub(super) fn counted(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}
