//! `odradek consume`: records become lines of standard output.

use std::io::{self, Write};

use super::Context;
use crate::args::{Consume, Start};
use crate::error::CliError;
use crate::format::json;
use crate::format::template::Template;
use crate::kafka::Cluster;
use crate::kafka::consumer::Consumer;
use crate::output::Format;

pub async fn execute(context: &Context, command: Consume) -> Result<(), CliError> {
    let timeout = context.global.timeout;
    if context.global.output == Format::Json && (command.format.is_some() || !command.print.is_empty()) {
        return Err(CliError::usage("--output json prints all of a record; it does not go with --format or --print"));
    }
    let separator = command.key_separator.as_deref();
    let template = match (command.format, command.print.as_slice()) {
        (Some(template), _) => template,
        (None, []) => Template::line(separator),
        (None, fields) => Template::fields(fields, separator),
    };
    let start = command.from.unwrap_or(if command.exit_at_end { Start::Earliest } else { Start::Latest });
    let cluster = Cluster::open(&context.world, context.bootstrap()?, &command.topic, timeout, false).await?;
    let mut consumer = Consumer::new(cluster, &command.partition, start, command.exit_at_end, timeout).await?;
    let mut left = command.max_messages.unwrap_or(u64::MAX);
    let mut out = io::BufWriter::new(io::stdout().lock());
    while left > 0 {
        let Some(found) = consumer.next().await? else { break };
        for (partition, records) in found {
            for record in records.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                match context.global.output {
                    Format::Text => {
                        template.write(&mut out, (&command.topic, partition), record, &command.null_value)?;
                    }
                    Format::Json => json::write(&mut out, &command.topic, partition, record)?,
                }
            }
            left = left.saturating_sub(records.len() as u64);
        }
        out.flush()?;
    }
    Ok(out.flush()?)
}
