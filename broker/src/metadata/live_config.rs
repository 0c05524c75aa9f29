//! What this broker goes by: its file with the dynamic configs of the metadata on top (KIP-226).
//!
//! The publisher is the only writer; those whose configs may change while the broker runs read it where they use it, or
//! wait for news of it.

use std::sync::Arc;

use odradek_common::BrokerId;
use odradek_common::config::{BrokerConfig, Overrides};
use odradek_metadata::{ConfigResource, Delta, Image};
use tokio::sync::watch;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct LiveConfig {
    file: Arc<BrokerConfig>,
    current: Arc<watch::Sender<Arc<BrokerConfig>>>,
}

/// All that the metadata holds for a resource.
pub fn overrides(image: &Image, resource: &ConfigResource) -> Overrides {
    let configs = image.resource_configs(resource).into_iter().flat_map(|configs| configs.iter());
    configs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

impl LiveConfig {
    /// As the file has it.
    pub fn new(file: Arc<BrokerConfig>) -> Self {
        let current = Arc::new(watch::Sender::new(file.clone()));
        Self { file, current }
    }

    pub fn current(&self) -> Arc<BrokerConfig> {
        self.current.borrow().clone()
    }

    /// Without what is dynamic.
    pub fn file(&self) -> &Arc<BrokerConfig> {
        &self.file
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<BrokerConfig>> {
        self.current.subscribe()
    }

    fn own(&self) -> BrokerId {
        self.file.node_id
    }

    /// Whether a change of metadata concerns this broker's configs.
    pub(super) fn is_touched(&self, delta: &Delta) -> bool {
        let own = ConfigResource::broker(self.own());
        delta.configs.iter().any(|resource| *resource == own || *resource == ConfigResource::cluster())
    }

    /// Takes up what the metadata says. What is wrong there is told and left out.
    pub(super) fn publish(&self, image: &Image) -> Arc<BrokerConfig> {
        let cluster = overrides(image, &ConfigResource::cluster());
        let own = overrides(image, &ConfigResource::broker(self.own()));
        let (config, problems) = self.file.with_dynamic(&cluster, &own);
        for problem in problems {
            tracing::error!("{problem}");
        }
        let config = Arc::new(config);
        let before = self.current();
        if *before != *config {
            let is_new = |name: &&String| before.effective.get(*name) != config.effective.get(*name);
            let names = config.effective.keys().chain(before.effective.keys());
            let changed: std::collections::BTreeSet<&String> = names.filter(is_new).collect();
            tracing::info!(?changed, "configs have changed");
            self.current.send_replace(config.clone());
        }
        config
    }
}
