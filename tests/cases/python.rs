//! kafka-python and aiokafka, unmodified, through the programs in `interop/python`.

use std::process::Command;

use odradek_tests::scripts::{python, serves, survives};

fn kafka_python(arguments: &[&str]) -> Option<Command> {
    python("with_kafka_python.py", arguments)
}

fn aiokafka(arguments: &[&str]) -> Option<Command> {
    python("with_aiokafka.py", arguments)
}

#[test]
fn kafka_python_is_served() {
    serves(kafka_python);
}

#[test]
fn kafka_python_survives_the_kill_of_its_coordinator() {
    survives(kafka_python, &["kafka-python-once", "kafka-python-least"]);
}

#[test]
fn aiokafka_is_served() {
    serves(aiokafka);
}

#[test]
fn aiokafka_survives_the_kill_of_its_coordinator() {
    survives(aiokafka, &["aiokafka-once", "aiokafka-least"]);
}
