//! The brokers of the harness.

use testkit::rabbitmq::{OwnBroker, TestBroker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The first byte of the answer to a protocol header: 1, a method frame.
async fn greet(url: &str) -> u8 {
    let authority = url.split('@').nth(1).unwrap().split('/').next().unwrap();
    let mut stream = TcpStream::connect(authority).await.unwrap();
    stream.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
    stream.read_u8().await.unwrap()
}

#[tokio::test]
async fn tests_share_one_broker_and_no_prefix() {
    let (one, two) = tokio::join!(TestBroker::shared(), TestBroker::shared());
    assert_eq!(one.url(), two.url());
    assert_ne!(one.prefix(), two.prefix());
    assert!(one.prefix().starts_with("t-") && one.prefix().len() > 20, "{}", one.prefix());
    assert_eq!(greet(one.url()).await, 1);
}

#[tokio::test]
async fn a_broker_of_ones_own_is_apart_and_comes_back_as_it_was() {
    let shared = TestBroker::shared().await;
    let own = OwnBroker::start().await;
    assert_ne!(own.url(), shared.url());
    own.ctl(&["add_vhost", own.prefix()]).await;
    own.kill().await;
    assert!(TcpStream::connect(("127.0.0.1", own.port())).await.is_err());
    own.start_again().await;
    assert_eq!(greet(&own.url()).await, 1);
    assert!(own.ctl(&["list_vhosts"]).await.contains(own.prefix()));
    assert_eq!(greet(shared.url()).await, 1);
}
