//! KafkaJS, unmodified, through the program in `interop/node`.

use std::process::Command;

use odradek_tests::scripts::{node, serves, survives};

fn kafkajs(arguments: &[&str]) -> Option<Command> {
    node("with_kafkajs.js", arguments)
}

#[test]
fn kafkajs_is_served() {
    serves(kafkajs);
}

#[test]
fn kafkajs_survives_the_kill_of_its_coordinator() {
    survives(kafkajs, &["kafkajs-once", "kafkajs-least"]);
}
