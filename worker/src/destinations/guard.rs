//! Which addresses a destination may reach: the public Internet, and nothing else unless the operator says so.
//!
//! The check sits where addresses are used: in the resolver whose answers the connection is made to (so a name cannot
//! mean one thing when it is checked and another when it is dialled), and on literals in URLs, which no resolver
//! sees. A name with one forbidden address among its answers is refused as a whole.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// An address that destinations may not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the destination's address is {kind}; if it is meant to be reached, set allow_private = true on the destination"
)]
pub struct Refused {
    /// What is wrong with it, for example `a private address`.
    pub kind: &'static str,
}

/// Looks names up. The port of the answers does not matter.
pub type Lookup = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> + Send + Sync>;

/// The guard of one destination.
#[derive(Clone)]
pub struct Guard {
    allow_private: bool,
    lookup: Lookup,
}

impl Guard {
    /// A guard that asks the operating system for addresses.
    pub fn new(allow_private: bool) -> Self {
        Self::with_lookup(allow_private, Arc::new(|name| Box::pin(lookup_by_system(name))))
    }

    /// A guard with name resolution of its own.
    pub fn with_lookup(allow_private: bool, lookup: Lookup) -> Self {
        Self { allow_private, lookup }
    }

    /// Checks a URL whose host is an address; names are checked when they are resolved. The `url` crate has brought
    /// every notation of an address (`0x7f.1`, `2130706433`) into its plain form before.
    ///
    /// # Errors
    /// [`Refused`] for an address that destinations may not reach.
    pub fn check_url(&self, url: &Url) -> Result<(), Refused> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.check(&[IpAddr::V4(address)]),
            Some(Host::Ipv6(address)) => self.check(&[IpAddr::V6(address)]),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    fn check(&self, addresses: &[IpAddr]) -> Result<(), Refused> {
        if self.allow_private {
            return Ok(());
        }
        match addresses.iter().find_map(|address| forbidden(*address)) {
            Some(kind) => Err(Refused { kind }),
            None => Ok(()),
        }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let addresses = (guard.lookup)(name.as_str().to_owned()).await?;
            guard.check(&addresses)?;
            // Port 0 stands for the URL's own.
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

async fn lookup_by_system(name: String) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
}

/// What forbids `address`, if anything does.
fn forbidden(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => forbidden_v4(address),
        IpAddr::V6(address) => forbidden_v6(address),
    }
}

/// IANA's IPv4 special-purpose registry.
fn forbidden_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("an unspecified address"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some("a private address"),
        [100, 64..=127, ..] => Some("a shared (carrier-grade NAT) address"),
        [127, ..] => Some("a loopback address"),
        [169, 254, ..] => Some("a link-local address"),
        [192, 0, 0, _] => Some("an address reserved for protocols"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some("a documentation address"),
        [192, 88, 99, _] => Some("a 6to4 relay's address"),
        [198, 18..=19, ..] => Some("a benchmarking address"),
        [224..=239, ..] => Some("a multicast address"),
        [240..=255, ..] => Some("a reserved or broadcast address"),
        _ => None,
    }
}

/// Only global unicast (2000::/3) without its special-purpose blocks; what embeds an IPv4 address could lead anywhere.
fn forbidden_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return forbidden_v4(mapped).or(Some("an IPv4-mapped address"));
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("an unspecified address"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("a loopback address"),
        [0x64, 0xff9b, ..] => Some("a NAT64 address"),
        [0x2001, 0, ..] => Some("a Teredo address"),
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Some("a documentation address"),
        [0x2001, 2..=0x01ff, ..] | [0x2001, 1, ..] => Some("an address reserved for protocols"),
        [0x2002, ..] => Some("a 6to4 address"),
        [0xfc00..=0xfdff, ..] => Some("a private address"),
        [0xfe80..=0xfebf, ..] => Some("a link-local address"),
        [0xff00..=0xffff, ..] => Some("a multicast address"),
        [0x2000..=0x3fff, ..] => None,
        _ => Some("a reserved address"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn special_addresses_are_forbidden_and_public_ones_are_not() {
        let forbidden_ones = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:8.8.8.8",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:808:808::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ];
        for text in forbidden_ones {
            assert!(forbidden(text.parse().unwrap()).is_some(), "{text}");
        }
        let public = [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2003::1",
            "2606:4700::1",
            "3ffe::1",
            "3fff:1000::1",
        ];
        for text in public {
            assert_eq!(forbidden(text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn every_notation_of_a_literal_is_recognised() {
        let guard = Guard::new(false);
        let refused = [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "http://127.0.0.1./",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[0:0:0:0:0:0:0:1]:8080/",
            "https://user:pw@10.0.0.1/x?y=z",
            "http://①②⑦.0.0.1/",
            "http://0/",
        ];
        for text in refused {
            let url = Url::parse(text).unwrap();
            assert!(guard.check_url(&url).is_err(), "{text}");
            assert_eq!(Guard::new(true).check_url(&url), Ok(()), "{text}");
        }
        assert_eq!(guard.check_url(&Url::parse("https://8.8.8.8/").unwrap()), Ok(()));
        assert_eq!(guard.check_url(&Url::parse("https://example.com/").unwrap()), Ok(()));
    }

    #[tokio::test]
    async fn one_forbidden_answer_refuses_the_name() {
        let answers = |list: &'static [&'static str]| -> Lookup {
            Arc::new(move |_| {
                Box::pin(async move { Ok(list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>()) })
            })
        };
        let resolve =
            |guard: Guard| async move { guard.resolve("example.com".parse().unwrap()).await.map(Vec::from_iter) };

        let mixed: &[&str] = &["8.8.8.8", "192.168.1.1"];
        let error = resolve(Guard::with_lookup(false, answers(mixed))).await.unwrap_err();
        assert!(error.to_string().contains("allow_private = true"), "{error}");
        assert_eq!(resolve(Guard::with_lookup(true, answers(mixed))).await.unwrap().len(), 2);
        assert_eq!(resolve(Guard::with_lookup(false, answers(&["8.8.8.8", "2606:4700::1"]))).await.unwrap().len(), 2);
    }
}
