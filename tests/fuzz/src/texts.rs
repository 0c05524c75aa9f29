//! Files that people write.

use std::path::Path;

use odradek_common::config::{BrokerConfig, ControllerConfig};
use odradek_common::fs::{Fs, write_file_atomically};
use odradek_common::mem_fs::MemFs;
use odradek_common::meta_properties::MetaProperties;

pub fn properties(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // Errors name all that is wrong, so that they are built too.
    let _ = BrokerConfig::load(&text, "f", &[]).map_err(|error| error.to_string());
    let _ = ControllerConfig::load(&text, "f", &[]).map_err(|error| error.to_string());
}

pub fn properties_seeds() -> Vec<Vec<u8>> {
    let broker = "node.id=1\nprocess.roles=broker\ncontroller.quorum.voters=101@a:1,102@[::1]:2\n\
                  listeners=CLIENTS://:9092,BROKERS://h:1\nlistener.security.protocol.map=CLIENTS:PLAINTEXT,BROKERS:PLAINTEXT\n\
                  inter.broker.listener.name=BROKERS\nmax.connections.per.ip.overrides=127.0.0.1:5,[::1]:6\n\
                  listener.name.clients.max.connections=5\nlog.dirs=/a, /b\\\n ,/c\nlog.retention.hours=1\n";
    let controller =
        "node.id=101\nprocess.roles=controller\ncontroller.quorum.voters=101@a:1\nlog.dirs=/a\n! a comment\n";
    vec![broker.as_bytes().to_vec(), controller.as_bytes().to_vec()]
}

pub fn meta_properties(data: &[u8]) {
    let fs = MemFs::new();
    let dir = Path::new("/logs");
    fs.create_dir_all(dir).expect("made");
    write_file_atomically(&fs, &dir.join("meta.properties"), data).expect("written");
    let _ = MetaProperties::read(&fs, dir).map_err(|error| error.to_string());
}

pub fn meta_properties_seeds() -> Vec<Vec<u8>> {
    let text = "#\n#Sat Jan 01 00:00:00 UTC 2026\nversion=1\ncluster.id=0pDMC_mfS-CIpvhF_wATcg\nnode.id=1\n\
                directory.id=qRbGDWVzTzi3YMI0aEWhLg\n";
    vec![text.as_bytes().to_vec()]
}
