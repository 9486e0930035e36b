//! Addresses: read, completed, and reduced to the place they are at.
//!
//! Identities cost nothing, addresses cost something. So what peers may take is counted by [`Place`]: an IPv4 address, the
//! /64 of an IPv6 address (which one machine has all to itself), or a host name.

use crate::error::NetError;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use std::net::SocketAddr;

/// Where something is, as far as it counts against a limit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// An IPv4 address.
    V4([u8; 4]),
    /// The first half of an IPv6 address.
    V6([u8; 8]),
    /// A host name.
    Name(String),
    /// None is known.
    Nowhere,
}

/// Read an address.
pub(crate) fn parse(address: &str) -> Result<Multiaddr, NetError> {
    let bad = |reason: String| NetError::Address { address: address.chars().take(300).collect(), reason };
    let parsed: Multiaddr = address.parse().map_err(|e: libp2p::multiaddr::Error| bad(e.to_string()))?;
    match parsed.iter().next() {
        None => Err(bad("it is empty".to_owned())),
        Some(
            Protocol::Ip4(_)
            | Protocol::Ip6(_)
            | Protocol::Dns(_)
            | Protocol::Dns4(_)
            | Protocol::Dns6(_)
            | Protocol::Dnsaddr(_)
            | Protocol::P2p(_),
        ) => Ok(parsed),
        Some(other) => Err(bad(format!("it begins with {other}"))),
    }
}

/// The peer id at the end of an address, and the address without it.
pub(crate) fn split(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match address.pop() {
        Some(Protocol::P2p(peer)) => (address, Some(peer)),
        Some(other) => (address.with(other), None),
        None => (address, None),
    }
}

/// The address with the peer id at its end.
pub(crate) fn complete(address: Multiaddr, peer: PeerId) -> Multiaddr {
    let (address, _) = split(address);
    address.with(Protocol::P2p(peer))
}

/// The socket that listening at a TCP address binds.
pub(crate) fn tcp_socket(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    // What goes on after that is another transport, or a way through a relay.
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port)), None) => Some((ip, port).into()),
        (Some(Protocol::Ip6(ip)), Some(Protocol::Tcp(port)), None) => Some((ip, port).into()),
        _ => None,
    }
}

/// Where an address is.
pub(crate) fn place(address: &Multiaddr) -> Place {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Place::V4(ip.octets()),
        Some(Protocol::Ip6(ip)) => match ip.to_ipv4_mapped() {
            Some(ip) => Place::V4(ip.octets()),
            None => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Place::V6([a, b, c, d, e, f, g, h])
            }
        },
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) | Protocol::Dnsaddr(name)) => {
            Place::Name(name.to_ascii_lowercase())
        }
        _ => Place::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_named_with_an_example() {
        for bad in ["", "127.0.0.1:4001", "/ip4/300.0.0.1/tcp/1", "/tcp/4001", "/ip4/127.0.0.1/tcp/99999", "http://x"] {
            let said = parse(bad).unwrap_err().to_string();
            assert!(said.contains("/ip4/127.0.0.1/tcp/4001"), "{said}");
        }
        parse("/dns4/example.org/udp/1/quic-v1").unwrap();
    }

    #[test]
    fn one_machine_is_one_place() {
        let at = |a: &str| place(&parse(a).unwrap());
        assert_eq!(at("/ip4/10.0.0.1/tcp/1"), at("/ip6/::ffff:10.0.0.1/tcp/2"));
        assert_eq!(at("/ip6/2001:db8::1/tcp/1"), at("/ip6/2001:db8::ffff:2/tcp/1"));
        assert_ne!(at("/ip6/2001:db8::1/tcp/1"), at("/ip6/2001:db8:0:1::1/tcp/1"));
        assert_eq!(at("/dns/A.example/tcp/1"), at("/dns/a.example/tcp/2"));
    }
}
