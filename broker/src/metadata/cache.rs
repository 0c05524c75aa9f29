//! The image that every part of the broker reads.

use std::sync::Arc;
use std::time::Duration;

use odradek_metadata::Image;
use odradek_node::World;
use tokio::sync::watch;

/// The current image. Cheap to clone. A reader keeps the image it took for as long as it likes; the next one replaces
/// it without waiting.
#[derive(Clone, Debug)]
pub struct MetadataCache {
    image: Arc<watch::Sender<Arc<Image>>>,
    /// The offset that every part of the broker has been told of.
    published: Arc<watch::Sender<i64>>,
}

impl Default for MetadataCache {
    fn default() -> Self {
        let image = Arc::new(Image::new());
        let published = image.offset();
        Self { image: Arc::new(watch::Sender::new(image)), published: Arc::new(watch::Sender::new(published)) }
    }
}

impl MetadataCache {
    pub fn image(&self) -> Arc<Image> {
        self.image.borrow().clone()
    }

    /// The metadata offset up to which all parts of this broker have acted; -1 at first.
    pub fn published_offset(&self) -> i64 {
        *self.published.borrow()
    }

    /// Sees how `published_offset` grows.
    pub fn subscribe_published(&self) -> watch::Receiver<i64> {
        self.published.subscribe()
    }

    /// Waits until this broker has published `offset`. Answers whether it did so in time.
    pub async fn wait_for_offset(&self, world: &World, offset: i64, limit: Duration) -> bool {
        if self.published_offset() >= offset {
            return true;
        }
        let mut published = self.published.subscribe();
        let reached = published.wait_for(|published| *published >= offset);
        matches!(world.timeout(limit, reached).await, Ok(Ok(_)))
    }

    /// Only the publisher calls this.
    pub(super) fn set_image(&self, image: Arc<Image>) {
        self.image.send_replace(image);
    }

    /// Only the publisher calls this.
    pub(super) fn set_published(&self, offset: i64) {
        self.published.send_replace(offset);
    }
}
