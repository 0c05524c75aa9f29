//! Batches that are compressed, with values that a codec finds something in.

use odradek_common::time::Timestamp;
use odradek_records::{Codec, RecordBatchBuilder};

use crate::Res;

/// Words of a record's value: what an application logs is neither noise nor one word.
const WORDS: [&str; 32] = [
    "customer",
    "order",
    "shipped",
    "carrier",
    "lisbon",
    "invoice",
    "payment",
    "status",
    "pending",
    "warehouse",
    "item",
    "quantity",
    "price",
    "currency",
    "euro",
    "address",
    "street",
    "harbour",
    "thread",
    "spool",
    "staircase",
    "father",
    "family",
    "leaves",
    "attic",
    "hallway",
    "stairs",
    "banister",
    "laughter",
    "lungs",
    "rustling",
    "colour",
];

fn value(bytes: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes + 16);
    while out.len() < bytes {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let word = WORDS[(x % 32) as usize];
        out.extend(format!("\"{word}\": {}, ", (x >> 8) % 1_000).bytes());
    }
    out.truncate(bytes);
    out
}

/// A batch of `count` records with values of `record_bytes`, packed with a codec by its name.
pub fn batch(codec: &str, count: usize, record_bytes: usize, now_ms: i64) -> Res<Vec<u8>> {
    let known = || Codec::ALL.map(Codec::name).join(", ");
    let codec = Codec::from_name(codec).ok_or_else(|| format!("--codec takes {}, not {codec}", known()))?;
    let mut builder = RecordBatchBuilder::new().compression(codec);
    for number in 0..count {
        builder.append(Timestamp(now_ms), None, Some(&value(record_bytes, number as u64)));
    }
    Ok(builder.build()?.to_vec())
}
