//! The same request to Apache Kafka and to a cluster of ours, and their answers side by side, field by field.
//!
//! What must differ is made equal first: topic and cluster ids, ports, the time that a request was throttled. Whatever
//! else may differ, a case has to say so by changing the answers itself before they are compared. One thing always may:
//! an error that Apache Kafka leaves without a message, or with the one that its error code always has, may have one of
//! ours, since that says what to do.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_node::{Connection, World};
use odradek_wire::{ApiVersionsRequest, MetadataRequest, Request, Str, Uuid};
use tokio::task::JoinHandle;

use crate::Cluster;
use crate::kafka::Node;

const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Within this a broker has seen what the controllers have decided.
const SEEN_LIMIT: Duration = Duration::from_secs(60);

/// What Apache Kafka says of an error when it says nothing but which one it is.
const GENERAL_TEXTS: &[&str] = &[
    "Eligible topic partition leaders are not available.",
    "The preferred leader was not available.",
    "This server does not host this topic-partition.",
];

/// How long an answer may take that waits for what others do.
const WAITING_LIMIT: Duration = Duration::from_secs(60);

/// One of the two clusters.
pub struct Side {
    pub name: &'static str,
    bootstrap: String,
    connection: Connection,
    /// Connections for requests that wait, when none does.
    spare: Vec<Connection>,
    /// The versions that it serves, by API key.
    versions: BTreeMap<i16, (i16, i16)>,
    /// What stands for something that differs by nature.
    aliases: BTreeMap<String, String>,
    /// What this side calls the things that a case has names for.
    names: BTreeMap<String, String>,
}

/// A request that both have and need not answer yet.
#[must_use]
pub struct Waiting<R: Request> {
    version: i16,
    kafka: JoinHandle<Waited<R>>,
    ours: JoinHandle<Waited<R>>,
}

/// An answer, and the connection that it came on.
type Waited<R> = anyhow::Result<(Connection, <R as Request>::Response)>;

impl Side {
    async fn open(name: &'static str, bootstrap: &str) -> anyhow::Result<Self> {
        let (host, port) = bootstrap.split_once(':').context("HOST:PORT")?;
        let mut connection = Connection::open(&World::real(), host, port.parse()?, "differential", CALL_LIMIT).await?;
        let request = ApiVersionsRequest {
            client_software_name: "differential".into(),
            client_software_version: "1".into(),
            ..Default::default()
        };
        let answer = connection.call(3, &request).await?;
        let versions = answer.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
        let metadata = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
        let cluster = connection.call(9, &metadata).await?.cluster_id.context("a cluster id")?;
        let aliases =
            BTreeMap::from([(port.to_owned(), "PORT".to_owned()), (cluster.to_string(), "CLUSTER".to_owned())]);
        let (bootstrap, spare, names) = (bootstrap.to_owned(), Vec::new(), BTreeMap::new());
        Ok(Self { name, bootstrap, connection, spare, versions, aliases, names })
    }

    /// Of the two, ids of topics differ.
    pub fn is_kafka(&self) -> bool {
        self.name == "Apache Kafka"
    }

    pub async fn call<R: Request>(&mut self, version: i16, request: &R) -> anyhow::Result<R::Response> {
        let answer = tokio::time::timeout(CALL_LIMIT, self.connection.call(version, request)).await;
        match answer.map_err(anyhow::Error::from).and_then(|answer| Ok(answer?)) {
            Ok(answer) => Ok(answer),
            Err(error) => {
                // The next case finds a connection that works.
                let (host, port) = self.bootstrap.split_once(':').context("HOST:PORT")?;
                self.connection =
                    Connection::open(&World::real(), host, port.parse()?, "differential", CALL_LIMIT).await?;
                Err(error).with_context(|| format!("{} answers {} {version}", self.name, R::NAME))
            }
        }
    }

    /// From now on `text` counts as `alias` in this side's answers.
    pub fn alias(&mut self, text: impl ToString, alias: &str) {
        self.aliases.insert(text.to_string(), alias.to_owned());
    }

    /// Asks on a connection of its own, in the runtime that this is called in.
    fn begin<R>(&mut self, version: i16, request: R) -> JoinHandle<Waited<R>>
    where
        R: Request + Send + Sync + 'static,
        R::Response: Send,
    {
        let (spare, bootstrap, name) = (self.spare.pop(), self.bootstrap.clone(), self.name);
        tokio::spawn(async move {
            let (host, port) = bootstrap.split_once(':').context("HOST:PORT")?;
            let mut connection = match spare {
                Some(connection) => connection,
                None => Connection::open(&World::real(), host, port.parse()?, "differential", CALL_LIMIT).await?,
            };
            let answer = tokio::time::timeout(WAITING_LIMIT, connection.call(version, &request)).await;
            let answer = answer.map_err(anyhow::Error::from).and_then(|answer| Ok(answer?));
            Ok((connection, answer.with_context(|| format!("{name} answers {} {version}", R::NAME))?))
        })
    }

    /// Gives `text`, as an id that this side has made, a name that requests can be made with ([`Side::own`]) and an alias
    /// that it counts as. What had the name before is forgotten.
    pub fn rename(&mut self, text: &str, name: &str, alias: &str) {
        if let Some(before) = self.names.insert(name.to_owned(), text.to_owned()) {
            self.aliases.remove(&before);
        }
        self.aliases.insert(text.to_owned(), alias.to_owned());
    }

    /// As [`Side::rename`], of what has no word of its own in answers, such as a small number.
    pub fn remember(&mut self, text: &str, name: &str) {
        self.names.insert(name.to_owned(), text.to_owned());
    }

    /// Whether it counts as something else already.
    pub fn has_alias(&self, text: &str) -> bool {
        self.aliases.contains_key(text)
    }

    /// What this side calls that; without such a name, the word stands for itself.
    pub fn own(&self, name: &str) -> Str {
        Str::from(self.names.get(name).map_or(name, String::as_str))
    }

    /// The id of a topic, which from then on counts as the topic's name.
    pub async fn topic_id(&mut self, topic: &str) -> anyhow::Result<Uuid> {
        let name =
            odradek_wire::metadata_request::MetadataRequestTopic { name: Some(topic.into()), ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![name]), ..Default::default() };
        let answer = self.call(12, &request).await?;
        let id = answer.topics.first().with_context(|| format!("{topic} on {}", self.name))?.topic_id;
        self.alias(id, &format!("id-of-{topic}"));
        Ok(id)
    }

    fn told(&self, answer: &impl std::fmt::Debug) -> String {
        let mut text = format!("{answer:#?}");
        for (own, alias) in &self.aliases {
            text = replace_words(&text, own, alias);
        }
        text
    }
}

/// Both, asked one after the other.
pub struct Pair {
    pub kafka: Side,
    pub ours: Side,
    runtime: tokio::runtime::Runtime,
    /// What was not the same: the case, in which versions, and how.
    differences: Vec<(String, Vec<i16>, String)>,
    pub compared: usize,
    waited_in_vain: bool,
}

impl Pair {
    pub fn open(kafka: &Node, ours: &Cluster) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bootstrap = ours.bootstrap().split(',').next().unwrap_or_default();
        let (kafka, ours) = runtime.block_on(async {
            anyhow::Ok((Side::open("Apache Kafka", &kafka.bootstrap).await?, Side::open("Odradek", bootstrap).await?))
        })?;
        Ok(Self { kafka, ours, runtime, differences: Vec::new(), compared: 0, waited_in_vain: false })
    }

    /// The versions of an API that both serve.
    ///
    /// # Errors
    /// When one of them serves none.
    pub fn versions<R: Request>(&self) -> anyhow::Result<std::ops::RangeInclusive<i16>> {
        let of = |side: &Side| side.versions.get(&(R::API_KEY as i16)).copied();
        let (kafka, ours) = (of(&self.kafka), of(&self.ours));
        let ((a, b), (c, d)) = kafka.zip(ours).with_context(|| format!("{} is served by both", R::NAME))?;
        // The least version that Produce is said to have is not one that a message can be written in.
        let range = a.max(c).max(R::MIN_VERSION)..=b.min(d).min(R::MAX_VERSION);
        ensure!(!range.is_empty(), "{}: no common version", R::NAME);
        Ok(range)
    }

    /// Asks both at every common version and compares. `request` is made for a version (so that names can differ from
    /// one to the next); `level` makes equal what may differ.
    pub fn same<R: Request>(
        &mut self,
        case: &str,
        request: impl Fn(i16) -> R,
        level: impl Fn(&mut R::Response),
    ) -> anyhow::Result<()> {
        for version in self.versions::<R>()? {
            let request = request(version);
            self.same_at(case, version, &request, &request, &level)?;
        }
        Ok(())
    }

    /// As [`Pair::same`], of what both will have seen in a moment: Apache Kafka answers a change before all its brokers
    /// know of it.
    pub fn same_soon<R: Request>(
        &mut self,
        case: &str,
        request: impl Fn(i16) -> R,
        level: impl Fn(&mut R::Response),
    ) -> anyhow::Result<()> {
        for version in self.versions::<R>()? {
            let request = request(version);
            // Once something was waited for in vain, whatever follows from it is not.
            let limit = if self.waited_in_vain { Duration::ZERO } else { SEEN_LIMIT };
            let seen = crate::wait_for("the same", limit, || {
                Ok(self.difference(version, &request, &request, &level).is_none().then_some(()))
            });
            self.waited_in_vain |= seen.is_err();
            self.same_at(case, version, &request, &request, &level)?;
        }
        Ok(())
    }

    /// As [`Pair::same`], at one version, with a request for each side: ids differ.
    pub fn same_at<R: Request>(
        &mut self,
        case: &str,
        version: i16,
        to_kafka: &R,
        to_ours: &R,
        level: impl Fn(&mut R::Response),
    ) -> anyhow::Result<()> {
        let how = self.difference(version, to_kafka, to_ours, level);
        self.note::<R>(case, version, how);
        Ok(())
    }

    /// Counts a comparison, and keeps what it has shown.
    fn note<R: Request>(&mut self, case: &str, version: i16, how: Option<String>) {
        self.compared += 1;
        if let Some(how) = how {
            let case = format!("{}: {case}", R::NAME);
            match self.differences.iter_mut().find(|(other, _, same)| *other == case && *same == how) {
                Some((_, versions, _)) => versions.push(version),
                None => self.differences.push((case, vec![version], how)),
            }
        }
    }

    /// How the answers differ, if they do.
    fn difference<R: Request>(
        &mut self,
        version: i16,
        to_kafka: &R,
        to_ours: &R,
        level: impl Fn(&mut R::Response),
    ) -> Option<String> {
        let (kafka, ours) = (&mut self.kafka, &mut self.ours);
        let (theirs, mine) =
            self.runtime.block_on(async { (kafka.call(version, to_kafka).await, ours.call(version, to_ours).await) });
        self.how_they_differ::<R>(theirs, mine, level)
    }

    /// As [`Pair::same_at`], with a request that is made for each side, in its own names. `learn` may give names to what
    /// is in the answers; they are returned as they came.
    ///
    /// # Errors
    /// When one of them has not answered at all.
    pub fn same_in_own_names<R: Request>(
        &mut self,
        case: &str,
        version: i16,
        request: impl Fn(&Side) -> R,
        learn: impl Fn(&mut Side, &R::Response),
        level: impl Fn(&mut R::Response),
    ) -> anyhow::Result<(R::Response, R::Response)> {
        let (to_kafka, to_ours) = (request(&self.kafka), request(&self.ours));
        let (kafka, ours) = (&mut self.kafka, &mut self.ours);
        let answers =
            self.runtime.block_on(async { (kafka.call(version, &to_kafka).await, ours.call(version, &to_ours).await) });
        self.answered::<R>(case, version, answers, learn, level)
    }

    /// Asks both, each on a connection of its own, and does not wait: a member that joins waits for others to do so. The
    /// requests are on their way with the next thing that is asked.
    pub fn begin<R>(&mut self, version: i16, request: impl Fn(&Side) -> R) -> Waiting<R>
    where
        R: Request + Send + Sync + 'static,
        R::Response: Send,
    {
        let (to_kafka, to_ours) = (request(&self.kafka), request(&self.ours));
        let _in_runtime = self.runtime.enter();
        Waiting { version, kafka: self.kafka.begin(version, to_kafka), ours: self.ours.begin(version, to_ours) }
    }

    /// Waits for what was begun and compares as [`Pair::same_in_own_names`] does.
    ///
    /// # Errors
    /// When one of them has not answered at all.
    pub fn end<R: Request>(
        &mut self,
        case: &str,
        waiting: Waiting<R>,
        learn: impl Fn(&mut Side, &R::Response),
        level: impl Fn(&mut R::Response),
    ) -> anyhow::Result<(R::Response, R::Response)> {
        let Waiting { version, kafka, ours } = waiting;
        let (theirs, mine) = self.runtime.block_on(async { (kafka.await, ours.await) });
        let received = |side: &mut Side, waited: Result<Waited<R>, tokio::task::JoinError>| {
            let (connection, answer) = waited??;
            side.spare.push(connection);
            anyhow::Ok(answer)
        };
        let answers = (received(&mut self.kafka, theirs), received(&mut self.ours, mine));
        self.answered::<R>(case, version, answers, learn, level)
    }

    fn answered<R: Request>(
        &mut self,
        case: &str,
        version: i16,
        (theirs, mine): (anyhow::Result<R::Response>, anyhow::Result<R::Response>),
        learn: impl Fn(&mut Side, &R::Response),
        level: impl Fn(&mut R::Response),
    ) -> anyhow::Result<(R::Response, R::Response)> {
        for (side, answer) in [(&mut self.kafka, &theirs), (&mut self.ours, &mine)] {
            if let Ok(answer) = answer {
                learn(side, answer);
            }
        }
        let kept = (theirs.as_ref().ok().cloned(), mine.as_ref().ok().cloned());
        let how = self.how_they_differ::<R>(theirs, mine, level);
        self.note::<R>(case, version, how);
        kept.0.zip(kept.1).with_context(|| format!("{} {version}: {case}: no answer", R::NAME))
    }

    fn how_they_differ<R: Request>(
        &self,
        theirs: anyhow::Result<R::Response>,
        mine: anyhow::Result<R::Response>,
        level: impl Fn(&mut R::Response),
    ) -> Option<String> {
        let text = |side: &Side, answer: anyhow::Result<R::Response>| match answer {
            Ok(mut answer) => {
                level(&mut answer);
                side.told(&answer)
            }
            Err(error) => format!("{error:#}").replace(side.name, "it"),
        };
        let (theirs, mine) = (text(&self.kafka, theirs), text(&self.ours, mine));
        let (theirs, mine) = (without_general_messages(&theirs), without_general_messages(&mine));
        let mine = without_additional_messages(&theirs, &mine);
        (theirs.trim_end() != mine.trim_end()).then(|| lines_that_differ(&theirs, &mine))
    }

    /// Asks both without comparing: preparation.
    pub fn both<R: Request>(&mut self, version: i16, request: &R) -> anyhow::Result<(R::Response, R::Response)> {
        self.both_of(version, request, request)
    }

    /// As [`Pair::both`], with a request for each side.
    pub fn both_of<R: Request>(
        &mut self,
        version: i16,
        to_kafka: &R,
        to_ours: &R,
    ) -> anyhow::Result<(R::Response, R::Response)> {
        let (kafka, ours) = (&mut self.kafka, &mut self.ours);
        self.runtime.block_on(async { Ok((kafka.call(version, to_kafka).await?, ours.call(version, to_ours).await?)) })
    }

    /// The ids of a topic: Apache Kafka's, then ours.
    pub fn topic_ids(&mut self, topic: &str) -> anyhow::Result<(Uuid, Uuid)> {
        let (kafka, ours) = (&mut self.kafka, &mut self.ours);
        self.runtime.block_on(async { Ok((kafka.topic_id(topic).await?, ours.topic_id(topic).await?)) })
    }

    /// Notes that what follows could not be compared.
    pub fn fail(&mut self, what: &str, why: &anyhow::Error) {
        self.differences.push((what.to_owned(), Vec::new(), format!("  could not go on: {why:#}\n")));
    }

    /// How many cases differ, alike in several versions counted once.
    pub fn different(&self) -> usize {
        self.differences.len()
    }

    /// # Errors
    /// All that differed.
    pub fn finish(self) -> anyhow::Result<()> {
        let told = self.differences.iter().map(|(case, versions, how)| format!("{case}, versions {versions:?}\n{how}"));
        ensure!(
            self.differences.is_empty(),
            "{} differences in {} answers (- Apache Kafka, + Odradek):\n{}",
            self.differences.len(),
            self.compared,
            told.collect::<String>()
        );
        Ok(())
    }
}

/// Replaces `word` where it is not a part of a longer one.
fn replace_words(text: &str, word: &str, by: &str) -> String {
    let is_part = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, found) = rest.split_at(at);
        let behind = &found[word.len()..];
        out.push_str(before);
        let own = is_part(before.chars().next_back()) || is_part(behind.chars().next());
        out.push_str(if own { word } else { by });
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// `text` without the messages that say no more than the error code beside them does.
fn without_general_messages(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let is_general = |told: &&str| {
            let told = told.trim().trim_end_matches(',');
            GENERAL_TEXTS
                .iter()
                .any(|general| told.strip_prefix('"').and_then(|t| t.strip_suffix('"')) == Some(general))
        };
        if line.trim() == "error_message: Some(" && lines.next_if(|told| is_general(told)).is_some() {
            lines.next();
            out.push_str(&format!("{}\n", line.replace("Some(", "None,")));
        } else {
            out.push_str(&format!("{line}\n"));
        }
    }
    out
}

/// `mine`, less the messages that stand where `theirs` has none.
fn without_additional_messages(theirs: &str, mine: &str) -> String {
    let mut out = String::with_capacity(mine.len());
    let mut mine = mine.lines();
    for line in theirs.lines() {
        let Some(own) = mine.next() else { break };
        let mut told = own.to_owned() + "\n";
        if line.trim() == "error_message: None," && own.trim() == "error_message: Some(" {
            let (message, end) = (mine.next().unwrap_or_default(), mine.next().unwrap_or_default());
            told = match message.trim() {
                "\"\"," => format!("{own}\n{message}\n{end}\n"),
                _ => format!("{line}\n"),
            };
        }
        out.push_str(&told);
    }
    mine.for_each(|line| out.push_str(&format!("{line}\n")));
    out
}

/// The lines of two texts that differ, each stretch of them with one line of context before it.
fn lines_that_differ(theirs: &str, mine: &str) -> String {
    let (theirs, mine): (Vec<&str>, Vec<&str>) = (theirs.lines().collect(), mine.lines().collect());
    // common[a][b] is how many lines the rests from a and b on have in common.
    let mut common = vec![vec![0usize; mine.len() + 1]; theirs.len() + 1];
    for a in (0..theirs.len()).rev() {
        for b in (0..mine.len()).rev() {
            common[a][b] = match theirs[a] == mine[b] {
                true => common[a + 1][b + 1] + 1,
                false => common[a + 1][b].max(common[a][b + 1]),
            };
        }
    }
    let (mut a, mut b, mut before, mut out) = (0, 0, None, String::new());
    while a < theirs.len() || b < mine.len() {
        if a < theirs.len() && b < mine.len() && theirs[a] == mine[b] {
            before = Some(theirs[a]);
            (a, b) = (a + 1, b + 1);
            continue;
        }
        out.extend(before.take().map(|line| format!("    {line}\n")));
        if b == mine.len() || (a < theirs.len() && common[a + 1][b] >= common[a][b + 1]) {
            out.push_str(&format!("  - {}\n", theirs[a]));
            a += 1;
        } else {
            out.push_str(&format!("  + {}\n", mine[b]));
            b += 1;
        }
    }
    out
}
