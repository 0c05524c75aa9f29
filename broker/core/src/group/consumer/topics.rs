//! The cluster's topics as groups see them.

use std::hash::Hasher;
use std::sync::Arc;

use odradek_common::TopicId;
use odradek_metadata::{Image, Topic};
use siphasher::sip::SipHasher13;

use super::member::Partitions;

/// One image of the metadata. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Topics {
    image: Arc<Image>,
    /// The image in which topics were made last, as far as it is known: for regular expressions.
    created_at: i64,
    /// No image was handed in yet since the log was loaded, and news may have been missed meanwhile.
    may_have_missed: bool,
}

impl Topics {
    pub fn new(image: Arc<Image>) -> Self {
        let created_at = image.offset();
        Self { image, created_at, may_have_missed: true }
    }

    /// Takes over an image that is not older.
    pub fn see(&mut self, image: Arc<Image>) {
        if image.offset() < self.image.offset() {
            return;
        }
        if std::mem::take(&mut self.may_have_missed) {
            self.created_at = image.offset();
        }
        self.image = image;
    }

    /// Topics were made in the image that is seen.
    pub fn on_created(&mut self) {
        self.created_at = self.image.offset();
    }

    pub fn image(&self) -> &Image {
        &self.image
    }

    pub fn version(&self) -> i64 {
        self.image.offset()
    }

    pub fn created_at(&self) -> i64 {
        self.created_at
    }

    pub fn id(&self, name: &str) -> Option<TopicId> {
        self.image.topic_id(name)
    }

    /// Partitions that are told by the names of their topics. What is not there does not count.
    pub fn by_id<'a>(&self, named: impl IntoIterator<Item = (&'a str, &'a [i32])>) -> Partitions {
        let mut out = Partitions::new();
        for (name, partitions) in named.into_iter().filter(|(_, partitions)| !partitions.is_empty()) {
            if let Some(id) = self.id(name) {
                out.entry(id).or_default().extend(partitions.iter().copied());
            }
        }
        out
    }

    pub fn topic(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.image.topic(id)
    }

    /// 0: there is no such topic.
    pub fn partition_count(&self, id: TopicId) -> i32 {
        self.image.topic(id).map_or(0, |topic| topic.partition_count())
    }

    /// Of all that an assignment of these topics depends on: their ids, their partitions, and in which racks these are.
    /// Names that are not there do not count; 0 when none is there. `names` are ascending.
    pub fn hash<'a>(&self, names: impl IntoIterator<Item = &'a Arc<str>>) -> i64 {
        let mut hasher = SipHasher13::new();
        let mut is_empty = true;
        for topic in names.into_iter().filter_map(|name| self.image.topic_by_name(name)) {
            is_empty = false;
            hasher.write(&topic.id.0);
            hasher.write(topic.name.as_bytes());
            hasher.write_i32(topic.partition_count());
            for (_, partition) in topic.partitions() {
                let racks = partition.replicas.iter().filter_map(|id| self.image.broker(*id)?.rack.as_deref());
                let mut racks: Vec<&str> = racks.collect();
                racks.sort_unstable();
                racks.dedup();
                hasher.write_u8(racks.len() as u8);
                for rack in racks {
                    hasher.write(rack.as_bytes());
                    hasher.write_u8(0);
                }
            }
        }
        if is_empty { 0 } else { hasher.finish() as i64 }
    }
}
