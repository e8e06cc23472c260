//! Running other programs, and saying so.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// The cargo that runs this, so that the toolchain stays the same, as if somebody had typed it: what the cargo around this
/// program says of xtask's own package would have build scripts run again (ring's looks at `CARGO_MANIFEST_DIR`), and
/// everything above them be built again, each time that the two ways take turns.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_a_package(name)) {
        command.env_remove(name);
    }
    command
}

fn is_of_a_package(variable: &OsStr) -> bool {
    variable.to_str().is_some_and(|name| ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|of| name.starts_with(of)))
}

/// Runs `command` to its end, with its output in the open, but on standard error: standard output belongs to what was asked
/// for, so that `cargo xtask bench --json` can be read by a program on a machine on which something is installed first.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let line = describe(command);
    eprintln!("+ {line}");
    let status = command.stdout(std::io::stderr()).status().with_context(|| format!("starting `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Whether `command` works, quietly.
pub(crate) fn works(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// The command as one would type it, without the folder of the program.
fn describe(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args()).map(|word| word.to_string_lossy());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_run_on_the_way_leaves_standard_output_alone() -> anyhow::Result<()> {
        const WITHIN: &str = "XTASK_TEST_RUNS_SOMETHING";
        if std::env::var_os(WITHIN).is_some() {
            return run(Command::new("echo").arg("on the way"));
        }
        let test = "shell::tests::what_is_run_on_the_way_leaves_standard_output_alone";
        let mut this = Command::new(std::env::current_exe()?);
        let output = this.args(["--exact", test, "--nocapture"]).env(WITHIN, "1").output()?;
        let (said, aside) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("1 passed") && !said.contains("way\n"), "{said}");
        assert!(aside.contains("+ echo on the way\non the way\n"), "{aside}");
        Ok(())
    }

    #[test]
    fn an_inner_cargo_hears_nothing_of_this_package() {
        // Whoever runs tests sets it, as `cargo xtask` does.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let command = cargo();
        let removed = |name: &str| command.get_envs().any(|(known, value)| known == name && value.is_none());
        assert!(removed("CARGO_MANIFEST_DIR") && removed("CARGO_PKG_NAME"));
        assert!(!is_of_a_package("CARGO_HOME".as_ref()) && !is_of_a_package("CARGO_TARGET_DIR".as_ref()));
    }
}
