//! Lengths, headers, keys, and the answer to a version of ApiVersions that nobody knows.

use bytes::Bytes;
use odradek_common::ErrorCode;

use crate::frame::{FrameError, RequestFrame, ResponseFrame, check_length, encode_request, encode_response};
use crate::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, Part, ProduceResponse, api_versions_entries,
    unsupported_api_versions_version,
};

/// The frame without its length, which is checked.
fn body(parts: Vec<Part>) -> Bytes {
    let [Part::Bytes(bytes)] = &parts[..] else { panic!("one part was expected: {parts:?}") };
    let length = check_length(*bytes.first_chunk().expect("a length"), 1 << 20).expect("within bounds");
    assert_eq!(length, bytes.len() - 4);
    bytes.slice(4..)
}

#[test]
fn requests_and_responses_cross_with_their_headers() {
    for version in ApiKey::Metadata.versions() {
        let request = MetadataRequest { topics: Some(Vec::new()), ..MetadataRequest::default() };
        let frame = body(encode_request(version, 77, Some("me".into()), &request).expect("encodes"));
        let parsed = RequestFrame::parse(frame).expect("parses");
        assert_eq!((parsed.api_key, parsed.api_version, parsed.correlation_id), (ApiKey::Metadata, version, 77));
        assert_eq!(parsed.client_id.as_deref(), Some("me"));
        assert!(parsed.is_version_known());
        assert_eq!(parsed.decode::<MetadataRequest>().expect("decodes"), request);
    }
    for version in ApiKey::Produce.versions() {
        let response = ProduceResponse::default();
        let frame = body(encode_response(ApiKey::Produce, version, -5, &response).expect("encodes"));
        assert_eq!(ResponseFrame::peek_correlation_id(&frame), Some(-5));
        let parsed = ResponseFrame::parse(frame, ApiKey::Produce, version).expect("parses");
        assert_eq!(parsed.correlation_id, -5);
        assert_eq!(parsed.decode::<ProduceResponse>(version).expect("decodes"), response);
    }
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    // Key 18, version 99, correlation id 3, client id "x", no tagged fields; then a body from the future.
    let frame = Bytes::from_static(&[0, 18, 0, 99, 0, 0, 0, 3, 0, 1, b'x', 0, 0xde, 0xad]);
    let request = RequestFrame::parse(frame).expect("its header can be read");
    assert!(!request.is_version_known());
    assert_eq!((request.api_key, request.correlation_id), (ApiKey::ApiVersions, 3));
    request.decode::<ApiVersionsRequest>().expect_err("its body cannot");

    let served = [(ApiKey::ApiVersions, 0..=4), (ApiKey::Produce, 3..=13), (ApiKey::Fetch, 4..=18)];
    let answer = unsupported_api_versions_version(api_versions_entries(served));
    let frame = body(encode_response(ApiKey::ApiVersions, 0, 3, &answer).expect("encodes"));
    let read = ResponseFrame::parse(frame, ApiKey::ApiVersions, 0).expect("parses");
    let read = read.decode::<ApiVersionsResponse>(0).expect("decodes");
    assert_eq!(read.error_code, ErrorCode::UnsupportedVersion.code());
    let ranges: Vec<_> = read.api_keys.iter().map(|key| (key.api_key, key.min_version, key.max_version)).collect();
    assert_eq!(ranges, [(0, 0, 13), (1, 4, 18), (18, 0, 4)], "Produce is advertised from 0");
}

#[test]
fn bad_frames_are_refused() {
    let refused = |bytes: &'static [u8], expected: &str| {
        assert_eq!(RequestFrame::parse(Bytes::from_static(bytes)).expect_err("refused").to_string(), expected);
    };
    refused(&[], "bad header: bytes v0, byte 0: 2 bytes are needed, 0 are left");
    refused(&[0x7f, 0, 0, 0, 0, 0, 0, 0], "unknown API key 32512");
    refused(&[0, 3, 0, 0, 0, 0], "bad header: RequestHeader v1, byte 4: 4 bytes are needed, 2 are left");
    assert_eq!(check_length([0, 0, 0, 9], 9), Ok(9));
    assert_eq!(check_length([0, 0, 0, 10], 9), Err(FrameError::Length { length: 10, max: 9 }));
    assert_eq!(check_length([0xff; 4], 9), Err(FrameError::Length { length: -1, max: 9 }));
}

#[test]
fn keys_know_their_versions_and_headers() {
    assert_eq!(ApiKey::from_code(0), Some(ApiKey::Produce));
    assert_eq!(ApiKey::from_code(-1), None);
    for key in ApiKey::ALL {
        assert_eq!(ApiKey::from_code(key.code()), Some(*key));
    }
    assert_eq!(ApiKey::Produce.versions(), 3..=13);
    assert!(ApiKey::LeaderAndIsr.versions().is_empty());
    assert_eq!((ApiKey::InitProducerId.versions(), ApiKey::InitProducerId.stable_versions()), (0..=6, 0..=5));
    assert_eq!((ApiKey::Fetch.request_header_version(11), ApiKey::Fetch.request_header_version(12)), (1, 2));
    assert_eq!((ApiKey::Fetch.response_header_version(11), ApiKey::Fetch.response_header_version(12)), (0, 1));
    assert_eq!((ApiKey::ApiVersions.request_header_version(3), ApiKey::ApiVersions.response_header_version(3)), (2, 0));
    // SaslHandshake never became flexible.
    assert_eq!(
        (ApiKey::SaslHandshake.request_header_version(1), ApiKey::SaslHandshake.request_header_version(9)),
        (1, 1)
    );
    assert!(ApiKey::Produce.is_broker_api() && !ApiKey::Produce.is_controller_api());
    assert!(ApiKey::ApiVersions.is_broker_api() && ApiKey::ApiVersions.is_controller_api());
    assert_eq!(format!("{:>9}", ApiKey::Fetch), "    Fetch");
}

#[test]
fn bytes_after_a_request_are_passed_over() {
    // What librdkafka 2.12 sends to ask for all topics by Metadata v13: key, version, correlation id 3, client id
    // "rdkafka", no header tags, a null array in four bytes where one would do, then three bytes for the rest.
    let mut frame = vec![0, 3, 0, 13, 0, 0, 0, 3, 0, 7];
    frame.extend_from_slice(b"rdkafka");
    frame.extend_from_slice(&[0, 0, 0, 0, 0, 1, 0, 0]);
    let request =
        RequestFrame::parse(Bytes::from(frame)).expect("parses").decode::<MetadataRequest>().expect("decodes");
    assert_eq!(request.topics, None);
}
