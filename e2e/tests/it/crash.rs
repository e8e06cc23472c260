//! Kill -9, SIGSTOP and SIGTERM of `claygate up` under load: what was answered with 200 reaches its end, and nothing is sent twice for no reason.

use std::time::Duration;

use rustix::process::Signal;
use testkit::receiver::{Answer, Receiver};
use tokio::task::JoinHandle;

use crate::books;
use crate::sender::Sender;
use crate::site::{Site, Up, signal};

/// Long enough for several requests to be under way when the process is killed.
const ANSWER_AFTER: Duration = Duration::from_millis(20);

/// A destination for everything.
fn config(receiver: &Receiver) -> String {
    format!(
        "[destinations.out]\nkind = \"http\"\nurl = \"{}\"\nallow_private = true\nretries = [\"1s\", \"1s\", \"1s\", \"1s\"]\n\
         [[rules]]\nname = \"all\"\nwhen = \"true\"\nto = [\"out\"]\n",
        receiver.url("/leads")
    )
}

/// A running `claygate up` that is sent leads, and delivers them to a receiver that takes its time.
struct UnderLoad {
    receiver: Receiver,
    site: Site,
    sender: Sender,
    load: JoinHandle<Vec<String>>,
}

impl UnderLoad {
    async fn start(leads: usize) -> (Self, Up) {
        let receiver = Receiver::start().await;
        receiver.answer_with(Answer::status(200).after(ANSWER_AFTER));
        let site = Site::new(&config(&receiver));
        let up = site.up().await;
        let sender = Sender::new(&site, &up);
        let load = sender.spawn_load(leads);
        (Self { receiver, site, sender, load }, up)
    }

    /// Starts a successor, which the rest of the leads are sent to.
    async fn up_again(&self) -> Up {
        let up = self.site.up().await;
        self.sender.follow([up.port]);
        up
    }

    /// Waits for the rest, and looks whether all of it arrived although the process was killed this often.
    async fn assert_nothing_lost(&mut self, leads: usize, kills: usize) {
        let answered = (&mut self.load).await.unwrap();
        assert_eq!(answered.len(), leads);
        let database = self.site.database();
        books::assert_all_delivered(&database, &answered).await;
        database.close().await;
        books::assert_sent(&self.receiver, leads, kills);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_under_load_lose_nothing() {
    const LEADS: usize = 300;
    let (mut rig, up) = UnderLoad::start(LEADS).await;
    rig.sender.wait_for_answers(40).await;
    up.kill();
    let up = rig.up_again().await;
    // While it is delivering.
    rig.receiver.wait_for_requests(80).await;
    up.kill();
    let up = rig.up_again().await;
    rig.sender.wait_for_answers(200).await;
    up.kill();
    let up = rig.up_again().await;
    rig.assert_nothing_lost(LEADS, 3).await;
    assert!(up.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postgres_under_load_loses_nothing() {
    const LEADS: usize = 120;
    let (mut rig, up) = UnderLoad::start(LEADS).await;
    rig.sender.wait_for_answers(40).await;
    signal(rig.site.postmaster(), Signal::KILL);
    assert_eq!(up.wait().code(), Some(1));
    let up = rig.up_again().await;
    rig.assert_nothing_lost(LEADS, 1).await;
    assert!(up.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_up_that_stands_still_under_load_loses_nothing_and_sends_nothing_twice() {
    const LEADS: usize = 160;
    let (mut rig, up) = UnderLoad::start(LEADS).await;
    rig.sender.wait_for_answers(40).await;
    signal(up.pid(), Signal::STOP);
    tokio::time::sleep(Duration::from_secs(3)).await;
    signal(up.pid(), Signal::CONT);
    rig.assert_nothing_lost(LEADS, 0).await;
    assert!(up.terminate().success());
}

/// Longer than a request may take, shorter than a lease: what came in meanwhile counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_came_while_an_up_stood_still_are_not_asked_for_again() {
    const LEADS: usize = 4;
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(200).after(Duration::from_secs(1)));
    let site = Site::new(&config(&receiver).replace("retries", "timeout = \"2s\"\nretries"));
    let up = site.up().await;
    let sender = Sender::new(&site, &up);
    let answered = sender.spawn_load(LEADS).await.unwrap();
    receiver.wait_for_requests(LEADS).await;
    assert!(receiver.in_flight() > 0, "nothing is under way any more");
    signal(up.pid(), Signal::STOP);
    tokio::time::sleep(Duration::from_secs(3)).await;
    signal(up.pid(), Signal::CONT);
    let database = site.database();
    books::assert_all_delivered(&database, &answered).await;
    database.close().await;
    books::assert_sent(&receiver, LEADS, 0);
    assert!(up.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_loses_nothing_and_sends_nothing_twice() {
    const LEADS: usize = 120;
    let (mut rig, up) = UnderLoad::start(LEADS).await;
    rig.receiver.wait_for_requests(40).await;
    assert!(up.terminate().success());
    let up = rig.up_again().await;
    rig.assert_nothing_lost(LEADS, 0).await;
    assert!(up.terminate().success());
}
