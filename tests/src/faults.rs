//! The network between the nodes of a cluster, and between them and their clients: a TCP proxy in front of each node, which
//! knows who came through it and can stop the bytes of any pair, one way or both.
//!
//! A link that is blocked moves no byte and tells nobody, as a partitioned network does: what was open stays open, and what
//! is opened meanwhile reaches nobody. `Network::heal` lets all flow again, or resets what hung, as after a long partition.
//!
//! Who came is told by the first bytes: a broker names itself in its Kafka requests, and whoever speaks gRPC is looked for by
//! the port of the connection in `/proc`, which takes long. So nothing has to be told to the nodes, and no permission is needed.
//! Whoever is no node is a client.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, watch};

const CHUNK_BYTES: usize = 64 << 10;

/// An end of a link: a node by its place in the cluster, or every client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum End {
    Clients,
    Node(usize),
}

#[derive(Clone, Default, Debug)]
struct Rules {
    /// (from, to): no byte goes there.
    blocked: HashSet<(End, End)>,
    /// Each chunk of bytes of any link waits this long.
    delay: Duration,
    /// How often a link was reset when it was healed.
    resets: HashMap<(End, End), u64>,
}

impl Rules {
    fn resets(&self, link: (End, End)) -> u64 {
        let (from, to) = link;
        [link, (to, from)].iter().filter_map(|way| self.resets.get(way)).sum()
    }
}

#[derive(Debug)]
struct Shared {
    rules: watch::Sender<Rules>,
    names: Vec<String>,
    /// The process of each node, while it runs.
    pids: Mutex<Vec<Option<u32>>>,
}

#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
    addresses: Vec<String>,
    /// Its end closes all connections.
    _runtime: Runtime,
}

impl Network {
    /// For each node, by name, a proxy on a port of 127.0.0.1 in front of its target (`host:port`), which need not be listening
    /// yet.
    pub fn start(nodes: &[(String, u16, String)]) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let shared = Arc::new(Shared {
            rules: watch::Sender::new(Rules::default()),
            names: nodes.iter().map(|(name, ..)| name.clone()).collect(),
            pids: Mutex::new(vec![None; nodes.len()]),
        });
        let mut addresses = Vec::new();
        for (index, (_, port, target)) in nodes.iter().enumerate() {
            let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", *port)));
            let listener = listener.with_context(|| format!("listen on {port}"))?;
            addresses.push(listener.local_addr()?.to_string());
            runtime.spawn(accept(shared.clone(), listener, End::Node(index), target.clone()));
        }
        Ok(Self { shared, addresses, _runtime: runtime })
    }

    /// Where a node is reached through the network.
    pub fn address(&self, node: usize) -> &str {
        &self.addresses[node]
    }

    /// Tells which process a node is now.
    pub fn set_pid(&self, node: usize, pid: u32) {
        self.shared.pids.lock().unwrap_or_else(PoisonError::into_inner)[node] = Some(pid);
    }

    /// Nothing goes from one to the other any more; the way back stays as it is.
    pub fn block(&self, from: End, to: End) {
        self.shared.rules.send_modify(|rules| _ = rules.blocked.insert((from, to)));
    }

    /// Cuts a node off from everybody.
    pub fn isolate(&self, node: usize) {
        let others = (0..self.addresses.len()).filter(|other| *other != node).map(End::Node).chain([End::Clients]);
        self.shared.rules.send_modify(|rules| {
            for other in others {
                rules.blocked.extend([(End::Node(node), other), (other, End::Node(node))]);
            }
        });
    }

    /// Every chunk of bytes waits this long.
    pub fn delay(&self, delay: Duration) {
        self.shared.rules.send_modify(|rules| rules.delay = delay);
    }

    /// All flows again, what hung included, unless it is to be reset.
    pub fn heal(&self, reset: bool) {
        self.shared.rules.send_modify(|rules| {
            rules.delay = Duration::ZERO;
            for link in rules.blocked.drain() {
                *rules.resets.entry(link).or_default() += u64::from(reset);
            }
        });
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, to: End, target: String) {
    loop {
        // Without a descriptor to accept with, there may be one a little later.
        let Ok((client, from)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (shared, target) = (shared.clone(), target.clone());
        tokio::spawn(async move {
            // What fails here is for the two ends to see: both are closed.
            let _ = connect(shared, client, from, to, &target).await;
        });
    }
}

/// The two ends of a connection. Who came is looked for when somebody has to know, as that takes long.
#[derive(Clone)]
struct Ends {
    shared: Arc<Shared>,
    first: Arc<[u8]>,
    peer: SocketAddr,
    from: Arc<OnceCell<End>>,
    to: End,
}

impl Ends {
    async fn from(&self) -> End {
        let find = async || {
            let (shared, first, peer) = (self.shared.clone(), self.first.clone(), self.peer);
            tokio::task::spawn_blocking(move || shared.who(&first, peer)).await.unwrap_or(End::Clients)
        };
        *self.from.get_or_init(find).await
    }

    /// Whether it is blocked: there, or back.
    async fn is_blocked(&self, rules: &Rules, is_back: bool) -> bool {
        if rules.blocked.is_empty() {
            return false;
        }
        let (from, to) = (self.from().await, self.to);
        rules.blocked.contains(&if is_back { (to, from) } else { (from, to) })
    }

    async fn resets(&self, rules: &Rules) -> u64 {
        if rules.resets.is_empty() { 0 } else { rules.resets((self.from().await, self.to)) }
    }

    /// Waits while one way is blocked.
    async fn passable(&self, rules: &mut watch::Receiver<Rules>, is_back: bool) {
        loop {
            let now = rules.borrow_and_update().clone();
            // The network outlives its connections: it owns the runtime that they are tasks of.
            if !self.is_blocked(&now, is_back).await || rules.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until it is reset.
    async fn reset(&self, rules: &mut watch::Receiver<Rules>, before: u64) {
        loop {
            let now = rules.borrow_and_update().clone();
            if self.resets(&now).await != before || rules.changed().await.is_err() {
                return;
            }
        }
    }
}

async fn connect(
    shared: Arc<Shared>,
    mut client: TcpStream,
    peer: SocketAddr,
    to: End,
    target: &str,
) -> std::io::Result<()> {
    let mut first = vec![0; CHUNK_BYTES];
    let count = client.read(&mut first).await?;
    first.truncate(count);
    let mut rules = shared.rules.subscribe();
    let ends = Ends { shared, first: first.into(), peer, from: Arc::default(), to };
    let before = rules.borrow_and_update().clone();
    let resets = ends.resets(&before).await;
    tokio::select! {
        biased;
        () = ends.reset(&mut rules, resets) => Ok(()),
        outcome = carry(&ends, client, target) => outcome,
    }
}

async fn carry(ends: &Ends, mut client: TcpStream, target: &str) -> std::io::Result<()> {
    let mut there = ends.shared.rules.subscribe();
    let mut back = ends.shared.rules.subscribe();
    ends.passable(&mut there, false).await;
    ends.passable(&mut back, true).await;
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    server.write_all(&ends.first).await?;
    let (client_reader, client_writer) = client.split();
    let (server_reader, server_writer) = server.split();
    tokio::select! {
        biased;
        outcome = pump(client_reader, server_writer, &mut there, ends, false) => outcome,
        outcome = pump(server_reader, client_writer, &mut back, ends, true) => outcome,
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    rules: &mut watch::Receiver<Rules>,
    ends: &Ends,
    is_back: bool,
) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut buffer).await;
        // Bytes, or an end, that came just before the network went stay with it.
        ends.passable(rules, is_back).await;
        let delay = rules.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match read? {
            0 => return Ok(()),
            count => to.write_all(&buffer[..count]).await?,
        }
    }
}

impl Shared {
    fn who(&self, first: &[u8], peer: SocketAddr) -> End {
        if !first.starts_with(b"PRI * HTTP/2") {
            let client_id = client_id(first).unwrap_or_default();
            let found = self
                .names
                .iter()
                .position(|name| client_id.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('-')));
            return found.map_or(End::Clients, End::Node);
        }
        let pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(inode) = inode(peer.port()) else { return End::Clients };
        let link = format!("socket:[{inode}]");
        let found = pids.iter().position(|pid| pid.is_some_and(|pid| has_open(pid, &link)));
        found.map_or(End::Clients, End::Node)
    }
}

/// Of a Kafka request with header version 1 or 2: it stands behind length, API key, version and correlation id.
fn client_id(first: &[u8]) -> Option<&str> {
    let length = i16::from_be_bytes(*first.get(12..)?.first_chunk()?);
    std::str::from_utf8(first.get(14..14 + usize::try_from(length).ok()?)?).ok()
}

/// The inode of the socket whose own port this is.
fn inode(port: u16) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    // The number of the line ends with a colon, so that this is the own address and not the peer's.
    let place = table.find(&format!(": 0100007F:{port:04X} "))?;
    Some(table.get(place + 2..)?.split_whitespace().nth(8)?.to_owned())
}

fn has_open(pid: u32, link: &str) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|one| std::fs::read_link(one.path()).is_ok_and(|to| to.as_os_str() == link))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_blocked_link_stops_one_way_and_healing_delivers_or_resets() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = server.local_addr().expect("bound").to_string();
        let network = Network::start(&[("broker-1".to_owned(), 0, target)]).expect("a network");
        let patience = Some(Duration::from_millis(300));
        let mut byte = [0];
        let pair = || {
            let mut client = TcpStream::connect(network.address(0)).expect("accepted");
            client.write_all(b"a").expect("written");
            let (mut server, _) = server.accept().expect("connected through");
            server.read_exact(&mut [0]).expect("it came through");
            client.set_read_timeout(patience).expect("a timeout");
            server.set_read_timeout(patience).expect("a timeout");
            (client, server)
        };
        let (mut client, mut accepted) = pair();
        network.block(End::Clients, End::Node(0));
        client.write_all(b"b").expect("written");
        accepted.write_all(b"c").expect("written");
        client.read_exact(&mut byte).expect("the way back is open");
        assert!(accepted.read_exact(&mut byte).is_err(), "nothing comes through");
        network.heal(false);
        accepted.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        accepted.read_exact(&mut byte).expect("what hung comes through");
        assert_eq!(&byte, b"b");

        network.isolate(0);
        client.write_all(b"d").expect("written");
        network.heal(true);
        assert_eq!(accepted.read(&mut byte).unwrap_or(0), 0, "what hung is reset");
        pair();
    }

    #[test]
    fn who_comes_is_told_by_its_requests_and_by_its_process() {
        let shared = Shared {
            rules: watch::Sender::new(Rules::default()),
            names: vec!["broker-1".to_owned(), "broker-12".to_owned(), "controller-1".to_owned()],
            pids: Mutex::new(vec![None, None, Some(std::process::id())]),
        };
        let request = |name: &str| {
            let mut out = crate::wire::Writer(vec![0; 4]);
            out.i16(18).i16(0).i32(1).string(name);
            out.frame()
        };
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(shared.who(&request("broker-12-fetcher-0"), nobody), End::Node(1));
        assert_eq!(shared.who(&request("rdkafka"), nobody), End::Clients);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let own = client.local_addr().expect("connected");
        assert_eq!(shared.who(b"PRI * HTTP/2.0\r\n", own), End::Node(2));
        assert_eq!(shared.who(b"PRI * HTTP/2.0\r\n", nobody), End::Clients);
    }
}
