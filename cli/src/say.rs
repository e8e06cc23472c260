//! Prints what a command was asked for.
//!
//! Whoever reads may stop before the end (`claygate events list | head`). A command then goes on with what it does, and has
//! nobody to tell of it. After any other failure to print, such as a full disk, it goes on as well, since what it has begun
//! must be ended and put away; it says so once, and its exit code is 1.

use std::fmt::Display;
use std::io::{self, ErrorKind, StdoutLock, Write};
use std::sync::atomic::{AtomicBool, Ordering};

static FAILED: AtomicBool = AtomicBool::new(false);

/// Prints a line, as `println!` does.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::say::text(format_args!("{}\n", format_args!($($text)*)))
    };
}

/// Prints `text` as it is, and at once.
pub(crate) fn text(text: impl Display) {
    print(|out| write!(out, "{text}"));
}

/// Prints bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) {
    print(|out| out.write_all(bytes));
}

/// Whether something could not be printed though somebody is there to read it.
pub(crate) fn has_failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}

fn print(write: impl FnOnce(&mut StdoutLock<'_>) -> io::Result<()>) {
    let mut out = io::stdout().lock();
    if let Err(error) = write(&mut out).and_then(|()| out.flush())
        && error.kind() != ErrorKind::BrokenPipe
        && !FAILED.swap(true, Ordering::Relaxed)
    {
        eprintln!("claygate: printing failed: {error}");
    }
}
