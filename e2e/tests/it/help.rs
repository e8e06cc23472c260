//! Every command tells how it is used.

use crate::site::Site;

#[tokio::test]
async fn every_command_has_help_with_an_example() {
    let site = Site::new("");
    let mut waiting = vec![Vec::<String>::new()];
    let mut seen = 0;
    while let Some(path) = waiting.pop() {
        let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
        arguments.push("--help");
        let output = site.run(&arguments).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(path.is_empty() || text.contains("Example"), "{arguments:?} has no example:\n{text}");
        let commands = text.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        // Names stand two columns in; what is further in goes on with a description.
        let names = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        for name in names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
            waiting.push(path.iter().cloned().chain([name.to_owned()]).collect());
            seen += 1;
        }
    }
    assert!(seen > 15, "only {seen} commands were found");
}
