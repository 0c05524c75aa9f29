//! `ApiKey`: which APIs there are, their versions, their headers, and which listeners serve them in Kafka.

use std::fmt;
use std::ops::RangeInclusive;

include!(concat!(env!("OUT_DIR"), "/api_keys.rs"));

struct Facts {
    name: &'static str,
    low: i16,
    high: i16,
    /// `high`, or one less when the schema calls the latest version unstable.
    stable_high: i16,
    flexible_from: i16,
    broker: bool,
    controller: bool,
}

impl ApiKey {
    pub fn code(self) -> i16 {
        self as i16
    }

    /// As Kafka spells it, `ApiVersions`.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Every version that can be encoded and decoded. Empty for an API that Kafka has removed.
    pub fn versions(self) -> RangeInclusive<i16> {
        self.facts().low..=self.facts().high
    }

    /// Without a latest version that Kafka still calls unstable.
    pub fn stable_versions(self) -> RangeInclusive<i16> {
        self.facts().low..=self.facts().stable_high
    }

    /// Whether this version has compact lengths and tagged fields (KIP-482). Versions above the known ones count as
    /// flexible, so that their header can be read.
    pub fn is_flexible(self, version: i16) -> bool {
        version >= self.facts().flexible_from
    }

    /// The version of the `RequestHeader` before a request of this version.
    pub fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// The version of the `ResponseHeader` before a response of this version. ApiVersions always has version 0: a client
    /// must be able to read the answer before it knows what the broker speaks (KIP-511).
    pub fn response_header_version(self, version: i16) -> i16 {
        i16::from(self != Self::ApiVersions && self.is_flexible(version))
    }

    /// Whether Kafka serves it on the brokers' listeners.
    pub fn is_broker_api(self) -> bool {
        self.facts().broker
    }

    /// Whether Kafka serves it on the controllers' listeners.
    pub fn is_controller_api(self) -> bool {
        self.facts().controller
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
