//! What a replay would send, shown before anything is sent, and the question whether to go on.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;

/// Whether to ask.
#[derive(Args)]
pub(crate) struct Confirmation {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Confirmation {
    /// Asks where nobody said `--yes`. Gives the exit code to end with when the answer is no, or when nobody is there.
    pub(crate) fn ask(&self) -> anyhow::Result<Option<ExitCode>> {
        if self.yes {
            return Ok(None);
        }
        if !std::io::stdin().is_terminal() {
            eprintln!("claygate: nobody is there to confirm; add --yes");
            return Ok(Some(ExitCode::from(2)));
        }
        // Whoever cannot see the question has not said yes.
        let mut out = std::io::stdout().lock();
        out.write_all(b"Go on? [y/N] ")?;
        out.flush()?;
        drop(out);
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(None);
        }
        say!("Nothing was sent.");
        Ok(Some(ExitCode::SUCCESS))
    }
}

/// Prints a count per destination.
pub(crate) fn print(destinations: &[(String, i64)]) {
    if destinations.is_empty() {
        say!("  nothing");
    }
    for (destination, n) in destinations {
        say!("  {destination:<20} {n}");
    }
}
