//! Start, restart, stop, kill, and whatever a crash leaves behind.

use std::net::TcpListener;

use rustix::process::Signal;
use testkit::wait::wait_until;

use crate::site::{LIMIT, Site, finish, signal};

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_clean_stop_leaves_nothing_running_and_a_restart_keeps_secrets() {
    let site = Site::new("");
    let up = site.up().await;
    let secret = site.secret("clay");
    let server = site.postmaster();
    assert!(up.terminate().success());
    assert!(site.run_file().is_none());
    assert!(!site.postmaster_pid_file().exists());
    assert!(!std::path::Path::new(&format!("/proc/{server}/exe")).exists());

    let up = site.up().await;
    assert_eq!(site.secret("clay"), secret);
    assert!(up.terminate().success());
}

#[tokio::test]
async fn a_second_up_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let site = Site::new("");
    let up = site.up().await;
    let refused = site.run(&["up"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let text = stderr(&refused);
    assert!(text.contains(&format!("pid {} (claygate up)", up.pid())), "{text}");
    assert!(up.admin("/readyz").await.contains("\"ready\":true"));
    assert!(up.terminate().success());
}

#[tokio::test]
async fn after_a_kill_it_starts_again_at_once() {
    let site = Site::new("");
    let first = site.up().await;
    let server = site.postmaster();
    first.kill();
    let second = site.up().await;
    assert_ne!(site.postmaster(), server);
    assert!(second.terminate().success());
}

#[tokio::test]
async fn a_killed_server_ends_up_with_an_error_and_the_next_start_recovers() {
    let site = Site::new("");
    let up = site.up().await;
    signal(site.postmaster(), Signal::KILL);
    assert_eq!(up.wait().code(), Some(1));
    assert!(site.written().contains("Postgres ended on its own"), "{}", site.written());
    assert!(site.postmaster_pid_file().exists(), "a kill leaves postmaster.pid behind");
    assert!(site.up().await.terminate().success());
}

#[tokio::test]
async fn a_kill_during_the_first_start_does_no_harm() {
    let site = Site::new("");
    let up = site.spawn_up();
    let data = site.data();
    wait_until("the first start to begin", LIMIT, || {
        let begun = data.join("lock").exists();
        async move { begun }
    })
    .await;
    up.kill();
    assert!(site.up().await.terminate().success());
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_port_and_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for setting in ["ingest", "admin"] {
        let site = Site::new("");
        let mut command = site.command(&["up"]);
        command.env(format!("CLAYGATE_{}__LISTEN", setting.to_uppercase()), &address);
        let refused = finish(command).await;
        assert_eq!(refused.status.code(), Some(1));
        let text = stderr(&refused);
        assert!(text.contains(&address) && text.contains(&format!("{setting}.listen")), "{text}");
        assert!(!site.postmaster_pid_file().exists(), "Postgres was stopped");
    }
}

#[tokio::test]
async fn an_ordinary_user_runs_everything_in_the_data_folder() {
    let site = Site::new("").with_ordinary_user();
    let up = site.up().await;
    let postgres = site.run_file().unwrap()["postgres"]["password_file"].as_str().unwrap().to_owned();
    assert!(postgres.starts_with(site.data().canonicalize().unwrap().to_str().unwrap()), "{postgres}");
    let doctor = site.run(&["doctor"]).await;
    assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));
    up.kill();
    assert!(site.up().await.terminate().success());
}

#[tokio::test]
async fn commands_use_a_running_instance_or_a_server_of_their_own() {
    let site = Site::new("");
    let alone = site.run(&["migrate", "--json"]).await;
    assert!(alone.status.success(), "{}", stderr(&alone));
    assert!(!site.postmaster_pid_file().exists(), "its server was stopped");
    assert_eq!(site.run(&["health"]).await.status.code(), Some(1));
    assert_eq!(site.run(&["demo"]).await.status.code(), Some(1));

    let up = site.up().await;
    assert!(site.run(&["migrate"]).await.status.success());
    let health = site.run(&["health"]).await;
    assert!(health.status.success(), "{}", stderr(&health));
    assert_eq!(site.run(&["no-such-command"]).await.status.code(), Some(2));
    assert!(up.terminate().success());
}
