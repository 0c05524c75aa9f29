//! Addresses in configs: `PLAINTEXT://host:port` (listeners), `1@host:port` (voters), `host:port` (bootstrap servers).

use std::fmt;
use std::str::FromStr;

/// A host name or address and a port. IPv6 addresses stand in brackets: `[::1]:9092`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostPort {
    /// Without brackets. Empty in a listener: every interface.
    pub host: String,
    /// 0 in a listener: a free port that the system picks.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not HOST:PORT");
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| format!("`{text}` has no port from 0 to 65535"))?;
        let host = match host.strip_prefix('[') {
            Some(address) => address.strip_suffix(']').ok_or_else(wrong)?,
            None if host.contains([':', '/', '@', ' ']) => return Err(wrong()),
            None => host,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// How a listener's connections are protected.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SecurityProtocol {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl SecurityProtocol {
    /// As Kafka writes it, `SASL_SSL`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }
}

impl FromStr for SecurityProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Plaintext, Self::Ssl, Self::SaslPlaintext, Self::SaslSsl]
            .into_iter()
            .find(|protocol| protocol.name().eq_ignore_ascii_case(text.trim()))
            .ok_or_else(|| format!("`{text}` is not one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"))
    }
}

/// An address that a node listens on or advertises.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Listener {
    /// Upper case, as `PLAINTEXT` or `CONTROLLER`.
    pub name: String,
    pub address: HostPort,
    pub protocol: SecurityProtocol,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.name, self.address)
    }
}

/// A member of the controllers' quorum, `1@host:port`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Voter {
    pub id: i32,
    pub address: HostPort,
}

impl FromStr for Voter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not ID@HOST:PORT, as 1@controller1.example.com:9093");
        let (id, address) = text.trim().split_once('@').ok_or_else(wrong)?;
        let id = id.parse().ok().filter(|id| *id >= 0).ok_or_else(wrong)?;
        let address: HostPort = address.parse()?;
        if address.host.is_empty() || address.port == 0 {
            return Err(wrong());
        }
        Ok(Self { id, address })
    }
}

/// Parses `listener.security.protocol.map`: `NAME:PROTOCOL,...`.
pub(super) fn protocol_map(text: &str) -> Result<Vec<(String, SecurityProtocol)>, String> {
    super::definition::list(text)
        .map(|item| {
            let (name, protocol) = item
                .split_once(':')
                .ok_or_else(|| format!("`{item}` is not LISTENER:PROTOCOL, as CLIENTS:PLAINTEXT"))?;
            Ok((name.trim().to_ascii_uppercase(), protocol.parse()?))
        })
        .collect()
}

/// Parses `listeners` or, where several names may share an address, `advertised.listeners`. `protocol_of` finds a
/// listener's protocol by its name.
pub(super) fn listeners(
    text: &str,
    may_share_port: bool,
    protocol_of: impl Fn(&str) -> Result<SecurityProtocol, String>,
) -> Result<Vec<Listener>, String> {
    let mut parsed: Vec<Listener> = Vec::new();
    for item in super::definition::list(text) {
        let (name, address) =
            item.split_once("://").ok_or_else(|| format!("`{item}` is not NAME://HOST:PORT, as PLAINTEXT://:9092"))?;
        let name = name.to_ascii_uppercase();
        let listener = Listener { address: address.parse()?, protocol: protocol_of(&name)?, name };
        if parsed.iter().any(|other| other.name == listener.name) {
            return Err(format!("each listener must have a different name, and {} stands there twice", listener.name));
        }
        let clashes = |other: &&Listener| other.address == listener.address && other.address.port != 0;
        if let Some(other) = parsed.iter().find(clashes).filter(|_| !may_share_port) {
            return Err(format!("each listener must have a different port, and {other} has that of {listener}"));
        }
        parsed.push(listener);
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["localhost:9092", "[::1]:9092", ":9092", "10.0.0.1:0"] {
            assert_eq!(text.parse::<HostPort>().map(|address| address.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "localhost", "localhost:", "localhost:70000", "::1:9092", "[::1:9092", "a b:1", "a/b:1"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn voters_need_an_id_a_host_and_a_port() {
        let voter: Voter = "3@c.example.com:9093".parse().expect("valid");
        assert_eq!((voter.id, voter.address.to_string().as_str()), (3, "c.example.com:9093"));
        for text in ["c:9093", "-1@c:9093", "x@c:9093", "1@:9093", "1@c:0", "1@c"] {
            assert!(text.parse::<Voter>().is_err(), "{text}");
        }
    }

    #[test]
    fn listeners_have_different_names_and_ports() {
        let plain = |_: &str| Ok(SecurityProtocol::Plaintext);
        assert_eq!(listeners("plaintext://:9092, B://h:9093", false, plain).expect("valid").len(), 2);
        for text in ["A://:1,A://:2", "A://:1,B://:1", "A:9092", "A://9092"] {
            assert!(listeners(text, false, plain).is_err(), "{text}");
        }
        assert!(listeners("A://h:1,B://h:1", true, plain).is_ok());
        assert!(protocol_map("A").is_err());
        assert!(protocol_map("A:TLS").is_err());
        assert_eq!(protocol_map("a:ssl").expect("valid"), [("A".to_owned(), SecurityProtocol::Ssl)]);
    }
}
