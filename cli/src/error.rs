//! What can end a command, and with which exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;

use odradek_common::ErrorCode;

/// How the process ends when not with 0. The numbers are a promise to scripts; `odradek --help` lists them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The cluster refused, or something went wrong on the way.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Nobody answers.
    Unreachable = 3,
    /// The topic, partition, group or broker is not there.
    NotFound = 4,
    /// The topic is there already.
    Exists = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// One line that says what to do.
#[derive(Debug)]
pub struct CliError {
    pub exit: Exit,
    pub message: String,
    broken_pipe: bool,
}

impl CliError {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), broken_pipe: false }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, message)
    }

    /// A topic that is not there.
    pub fn no_topic(topic: &str) -> Self {
        Self::new(
            Exit::NotFound,
            format!(
                "there is no topic {topic}; `odradek topic list` shows all, `odradek topic create {topic}` makes it"
            ),
        )
    }

    /// Output that nobody reads any more, as with `| head`.
    pub fn is_broken_pipe(&self) -> bool {
        self.broken_pipe
    }

    /// What a Kafka error code means for a command on a topic.
    pub fn kafka(code: ErrorCode, topic: &str, message: Option<&str>) -> Self {
        match code {
            ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId => Self::no_topic(topic),
            ErrorCode::TopicAlreadyExists => Self::new(Exit::Exists, format!("topic {topic} exists already")),
            code => Self::failed(match message.or(way_out(code)) {
                Some(message) => format!("{topic}: {message} ({})", code.name()),
                None => format!("{topic}: {}", code.name()),
            }),
        }
    }
}

/// What to do about errors that a broker's answer does not explain.
fn way_out(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => {
            "a record or a batch is larger than max.message.bytes of the topic; raise it with `odradek config set topic/NAME`, \
             or write less at a time"
        }
        ErrorCode::NotEnoughReplicas | ErrorCode::NotEnoughReplicasAfterAppend => {
            "fewer replicas are in sync than min.insync.replicas asks for; `odradek topic describe` shows the ISR, `odradek \
             broker list` who is missing"
        }
        ErrorCode::LeaderNotAvailable | ErrorCode::NotLeaderOrFollower => {
            "no broker leads it at present; `odradek topic describe` shows its replicas, `odradek broker list` who is missing"
        }
        ErrorCode::InvalidTopicException => {
            "a topic's name has 1 to 249 of the characters a-z, A-Z, 0-9, dot, underscore and hyphen, and is not . or .."
        }
        ErrorCode::RequestTimedOut => "it took too long; try again, or give it more time with --timeout",
        ErrorCode::InvalidRequiredAcks => "acks are 0, 1 or all",
        ErrorCode::InvalidTimestamp => {
            "a record's timestamp is further from now than message.timestamp.before.max.ms and after.max.ms of the topic allow"
        }
        _ => return None,
    })
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

/// Errors of standard input and output.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        Self { exit: Exit::Failed, broken_pipe: error.kind() == io::ErrorKind::BrokenPipe, message: error.to_string() }
    }
}
