//! Offsets as Kafka's `kafka-consumer-groups` exports and reads them: `topic,partition,offset`, or of several groups
//! `group,topic,partition,offset`. Names with a comma or a quote in them, and long ones, stand in quotes.

use std::fmt::Write as _;

/// One line of such a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

/// The rows for `group`; those of other groups are passed over. Lines that name no group are for it when it is the only
/// one that is meant.
///
/// # Errors
/// What is wrong with which line.
pub fn read(text: &str, group: &str, is_only: bool) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = || match is_only {
            true => format!("line {number} is not TOPIC,PARTITION,OFFSET or GROUP,TOPIC,PARTITION,OFFSET: {line}"),
            false => format!("line {number} is not GROUP,TOPIC,PARTITION,OFFSET, as several groups want it: {line}"),
        };
        let fields = fields(line).ok_or_else(wrong)?;
        let (of_group, topic, partition, offset) = match fields.as_slice() {
            [topic, partition, offset] if is_only => (group, topic, partition, offset),
            [group, topic, partition, offset] => (group.as_str(), topic, partition, offset),
            _ => return Err(wrong()),
        };
        let partition = partition.trim().parse().ok().filter(|index| *index >= 0).ok_or_else(wrong)?;
        let offset = offset.trim().parse().ok().filter(|offset| *offset >= 0).ok_or_else(wrong)?;
        if topic.is_empty() {
            return Err(wrong());
        }
        if of_group == group {
            rows.push(Row { topic: topic.clone(), partition, offset });
        }
    }
    Ok(rows)
}

/// `None` when a quote is not closed, or something follows it.
fn fields(line: &str) -> Option<Vec<String>> {
    let (mut fields, mut rest) = (Vec::new(), line);
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest.get(..end)?.to_owned(), rest.get(end..)?)
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None if after.is_empty() => return Some(fields),
            None => return None,
        }
    }
}

/// What stands before the closing quote, and what follows it. A quote in the text is written twice.
fn unquote(text: &str) -> Option<(String, &str)> {
    let (mut field, mut rest) = (String::new(), text);
    loop {
        let (before, after) = rest.split_once('"')?;
        field.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Some((field, after)),
        }
    }
}

/// As [`read`] reads it; `group` stands on each line when it is not the only one. Names of topics need no quotes.
pub fn write<'a>(group: Option<&str>, rows: impl Iterator<Item = (&'a str, i32, i64)>) -> String {
    let is_plain = |group: &str| !group.contains([',', '"']);
    let group = group.map(|group| match is_plain(group) {
        true => format!("{group},"),
        false => format!("\"{}\",", group.replace('"', "\"\"")),
    });
    let mut text = String::new();
    for (topic, partition, offset) in rows {
        text.push_str(group.as_deref().unwrap_or_default());
        let _ = writeln!(text, "{topic},{partition},{offset}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(topic: &str, partition: i32, offset: i64) -> Row {
        Row { topic: topic.to_owned(), partition, offset }
    }

    #[test]
    fn both_forms_are_read_and_one_is_written() {
        let text = "orders,0,5\r\n\n\"a-topic-with-quite-a-long-name\",1,70\n";
        let rows = read(text, "g", true).expect("valid");
        assert_eq!(rows, [row("orders", 0, 5), row("a-topic-with-quite-a-long-name", 1, 70)]);
        let fields = || rows.iter().map(|row| (row.topic.as_str(), row.partition, row.offset));
        let written = write(None, fields());
        assert_eq!(written, "orders,0,5\na-topic-with-quite-a-long-name,1,70\n");
        assert_eq!(read(&written, "g", true).as_ref(), Ok(&rows));
        assert!(read(&written, "g", false).is_err_and(|error| error.contains("line 1")));
        for group in ["g", "the \"g\", or so"] {
            let written = write(Some(group), fields());
            assert_eq!((read(&written, group, false).as_ref(), read(&written, "x", false)), (Ok(&rows), Ok(vec![])));
        }
        let of_many = "g,orders,0,5\nother,orders,0,9\n\"g\",orders,1,6\n\"the \"\"g\"\", or so\",orders,2,7\n";
        assert_eq!(read(of_many, "g", true), Ok(vec![row("orders", 0, 5), row("orders", 1, 6)]));
        assert_eq!(read(of_many, "the \"g\", or so", false), Ok(vec![row("orders", 2, 7)]));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, told) in [
            ("orders,0,5\norders;1;6", "line 2"),
            ("orders,0", "line 1"),
            ("orders,x,5", "line 1"),
            ("orders,0,-5", "line 1"),
            ("orders,-1,5", "line 1"),
            (",0,5", "line 1"),
            ("\"orders,0,5", "line 1"),
            ("\"orders\"x,0,5", "line 1"),
            ("a,b,c,d,e", "line 1"),
        ] {
            let error = read(text, "g", true).expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
