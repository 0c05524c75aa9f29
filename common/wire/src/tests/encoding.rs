//! What a version cannot say is refused by name; records are referenced or left out; tags keep their order.

use bytes::Bytes;

use crate::fetch_response::{FetchableTopicResponse, PartitionData};
use crate::produce_request::{PartitionProduceData, TopicProduceData};
use crate::{
    ApiVersionsResponse, Decoder, EncodeError, EncodeErrorKind, Encoder, FetchRequest, FetchResponse, Message,
    MetadataRequest, Part, ProduceRequest, RawTaggedField, Records, Str, decode_versioned_up_to, encode_versioned,
};

fn encode<M: Message>(message: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut out = Encoder::new();
    message.encode(&mut out, version)?;
    Ok(out.into_bytes().expect("no hole"))
}

fn decode<M: Message>(bytes: Bytes, version: i16) -> M {
    let mut input = Decoder::new(bytes);
    let message = M::decode(&mut input, version).expect("decodes");
    input.finish().expect("all read");
    message
}

#[test]
fn a_field_that_the_version_lacks_is_refused_by_name() {
    let refused = |result: Result<Bytes, EncodeError>, expected: &str| {
        assert_eq!(result.expect_err("refused").to_string(), expected);
    };
    let metadata = MetadataRequest { allow_auto_topic_creation: false, ..MetadataRequest::default() };
    refused(encode(&metadata, 1), "MetadataRequest v1: AllowAutoTopicCreation is set, which this version lacks");
    encode(&metadata, 4).expect("there from version 4 on");

    let fetch = FetchRequest { rack_id: Str::from_static("a"), ..FetchRequest::default() };
    encode(&fetch, 10).expect("ignorable");
    assert_eq!(decode::<FetchRequest>(encode(&fetch, 10).expect("encodes"), 10).rack_id, "");

    let all_topics = MetadataRequest { topics: None, ..MetadataRequest::default() };
    refused(encode(&all_topics, 0), "MetadataRequest v0: Topics: null is not allowed");
    refused(encode(&MetadataRequest::default(), 99), "MetadataRequest v99: this version does not exist");

    let tagged = MetadataRequest {
        unknown_tagged_fields: vec![RawTaggedField { tag: 7, data: Bytes::new() }],
        ..MetadataRequest::default()
    };
    refused(encode(&tagged, 8), "MetadataRequest v8: unknown_tagged_fields is set, which this version lacks");

    let long = FetchRequest { rack_id: "x".repeat(40_000).into(), ..FetchRequest::default() };
    refused(encode(&long, 12), "FetchRequest v12: RackId: 40000 is longer than the protocol can say");
}

#[test]
fn unknown_tagged_fields_are_kept_between_the_known_ones() {
    let raw = |tag, byte: u8| RawTaggedField { tag, data: Bytes::copy_from_slice(&[byte; 3]) };
    let response = ApiVersionsResponse {
        finalized_features_epoch: 5,
        zk_migration_ready: true,
        unknown_tagged_fields: vec![raw(9, 1), raw(300, 2)],
        ..ApiVersionsResponse::default()
    };
    let bytes = encode(&response, 3).expect("encodes");
    assert_eq!(decode::<ApiVersionsResponse>(bytes.clone(), 3), response);
    // Error code, no keys, throttle time, then four tags: 1, 3, 9, 300.
    assert_eq!(bytes[..8], [0, 0, 1, 0, 0, 0, 0, 4]);
    assert_eq!(bytes[8..], [1, 8, 0, 0, 0, 0, 0, 0, 0, 5, 3, 1, 1, 9, 3, 1, 1, 1, 0xac, 2, 3, 2, 2, 2]);

    for tags in [vec![raw(3, 0)], vec![raw(9, 0), raw(9, 0)], vec![raw(10, 0), raw(9, 0)]] {
        let response = ApiVersionsResponse { unknown_tagged_fields: tags, ..response.clone() };
        let error = encode(&response, 3).expect_err("out of order");
        assert!(matches!(error.kind, EncodeErrorKind::TagOrder { .. }), "{error}");
    }
}

#[test]
fn records_are_sliced_in_referenced_or_left_as_a_hole() {
    let records = Bytes::from(vec![7u8; 5000]);
    let request = ProduceRequest {
        acks: -1,
        topic_data: vec![TopicProduceData {
            name: "t".into(),
            partition_data: vec![PartitionProduceData {
                index: 3,
                records: Some(records.clone().into()),
                ..PartitionProduceData::default()
            }],
            ..TopicProduceData::default()
        }],
        ..ProduceRequest::default()
    };
    let mut out = Encoder::new();
    request.encode(&mut out, 9).expect("encodes");
    let length = out.len();
    let parts = out.into_parts();
    assert_eq!(parts.iter().map(Part::len).sum::<usize>(), length);
    let Part::Bytes(referenced) = &parts[1] else { panic!("a hole in {parts:?}") };
    assert_eq!(referenced.as_ptr(), records.as_ptr(), "the records were copied");

    let frame = encode(&request, 9).expect("encodes");
    let back = decode::<ProduceRequest>(frame.clone(), 9);
    assert_eq!(back, request);
    let slice = back.topic_data[0].partition_data[0].records.as_ref().and_then(Records::as_bytes).expect("bytes");
    assert!(frame.as_ptr_range().contains(&slice.as_ptr()), "the records were copied");

    let with = |records: Records| FetchResponse {
        responses: vec![FetchableTopicResponse {
            partitions: vec![
                PartitionData { records: Some(records.clone()), ..PartitionData::default() },
                PartitionData { partition_index: 1, records: Some(records), ..PartitionData::default() },
            ],
            ..FetchableTopicResponse::default()
        }],
        ..FetchResponse::default()
    };
    let whole = encode(&with(Records::Bytes(records.clone())), 13).expect("encodes");
    let mut out = Encoder::for_frame(16);
    with(Records::Outside(records.len())).encode(&mut out, 13).expect("encodes");
    assert_eq!(out.len(), whole.len() + 4);
    let mut filled = Vec::new();
    let mut holes = 0;
    for part in out.into_parts() {
        match part {
            Part::Bytes(bytes) => filled.extend_from_slice(&bytes),
            Part::Outside(length) => {
                holes += 1;
                filled.extend_from_slice(&records[..length]);
            }
        }
    }
    assert_eq!(holes, 2);
    assert_eq!(filled[..4], (whole.len() as u32).to_be_bytes());
    assert_eq!(filled[4..], whole);

    let mut out = Encoder::new();
    with(Records::Outside(5)).encode(&mut out, 13).expect("encodes");
    assert_eq!(out.into_bytes(), None, "a hole cannot be had as bytes");
}

#[test]
fn a_newer_subscription_is_read_as_the_newest_known() {
    let subscription = crate::ConsumerProtocolSubscription {
        topics: vec!["a".into(), "b".into()],
        generation_id: 4,
        rack_id: Some("r".into()),
        ..crate::ConsumerProtocolSubscription::default()
    };
    let mut bytes = encode_versioned(&subscription, 3).expect("encodes").to_vec();
    bytes[1] = 9;
    bytes.extend_from_slice(b"fields of the future");
    let read = decode_versioned_up_to::<crate::ConsumerProtocolSubscription>(bytes.into()).expect("decodes");
    assert_eq!(read, (9, subscription));
}

#[test]
fn a_str_is_the_text_it_holds() {
    let text = Str::from("čaj");
    assert_eq!(text, "čaj");
    assert_eq!(text.detached(), text);
    assert_eq!(std::collections::HashMap::from([(text.clone(), 1)]).get("čaj"), Some(&1));
    let (less, more) = (Str::from("a"), Str::from("b"));
    assert!(less < more);
    assert_eq!(format!("{text} {text:?}"), "čaj \"čaj\"");
    assert!(Str::from_utf8(Bytes::from_static(&[0xff])).is_err());
}
