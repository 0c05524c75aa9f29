//! The network between the nodes of a cluster, and between them and their clients: a TCP proxy in front of each node, which
//! knows who came through it and can stop the bytes of any pair, one way or both.
//!
//! A link that is blocked moves no byte and tells nobody, as a partitioned network does: what was open stays open, and what
//! is opened meanwhile reaches nobody. `Network::heal` lets all flow again, or resets what hung, as after a long partition.
//!
//! Who came is found by the port of the connection, in `/proc`: nothing has to be told to the nodes, and no permission is
//! needed. Whoever is no node is a client.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

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
    /// A proxy on a port of 127.0.0.1 in front of each target (`host:port`), which need not be listening yet.
    pub fn start(nodes: &[(u16, String)]) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let shared =
            Arc::new(Shared { rules: watch::Sender::new(Rules::default()), pids: Mutex::new(vec![None; nodes.len()]) });
        let mut addresses = Vec::new();
        for (index, (port, target)) in nodes.iter().enumerate() {
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
            let from = shared.who(from);
            // What fails here is for the two ends to see: both are closed.
            let _ = connect(&shared, client, (from, to), &target).await;
        });
    }
}

async fn connect(shared: &Shared, client: TcpStream, link: (End, End), target: &str) -> std::io::Result<()> {
    let mut rules = shared.rules.subscribe();
    let resets = rules.borrow().resets(link);
    tokio::select! {
        biased;
        _ = rules.wait_for(|now| now.resets(link) != resets) => Ok(()),
        outcome = carry(shared, client, link, target) => outcome,
    }
}

async fn carry(shared: &Shared, mut client: TcpStream, link: (End, End), target: &str) -> std::io::Result<()> {
    let (from, to) = link;
    let mut there = shared.rules.subscribe();
    let mut back = shared.rules.subscribe();
    passable(&mut there, (from, to)).await;
    passable(&mut back, (to, from)).await;
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_reader, client_writer) = client.split();
    let (server_reader, server_writer) = server.split();
    tokio::select! {
        biased;
        outcome = pump(client_reader, server_writer, &mut there, (from, to)) => outcome,
        outcome = pump(server_reader, client_writer, &mut back, (to, from)) => outcome,
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    rules: &mut watch::Receiver<Rules>,
    link: (End, End),
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await;
        // Bytes, or an end, that came just before the network went stay with it.
        passable(rules, link).await;
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

/// Waits while the link is blocked.
async fn passable(rules: &mut watch::Receiver<Rules>, link: (End, End)) {
    // The network outlives its connections: it owns the runtime that they are tasks of.
    let _ = rules.wait_for(|now| !now.blocked.contains(&link)).await;
}

impl Shared {
    fn who(&self, peer: SocketAddr) -> End {
        let pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(inode) = inode(peer.port()) else { return End::Clients };
        let link = format!("socket:[{inode}]");
        let found = pids.iter().position(|pid| pid.is_some_and(|pid| has_open(pid, &link)));
        found.map_or(End::Clients, End::Node)
    }
}

/// The inode of the socket whose own port this is.
fn inode(port: u16) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let own = format!("0100007F:{port:04X}");
    let line = table.lines().find(|line| line.split_whitespace().nth(1) == Some(&own))?;
    Some(line.split_whitespace().nth(9)?.to_owned())
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
        let network = Network::start(&[(0, target)]).expect("a network");
        network.set_pid(0, u32::MAX);
        let patience = Some(Duration::from_millis(300));
        let pair = || {
            let client = TcpStream::connect(network.address(0)).expect("accepted");
            let (server, _) = server.accept().expect("connected through");
            client.set_read_timeout(patience).expect("a timeout");
            server.set_read_timeout(patience).expect("a timeout");
            (client, server)
        };
        let mut byte = [0];
        let (mut client, mut accepted) = pair();
        client.write_all(b"a").expect("written");
        accepted.read_exact(&mut byte).expect("it came through");

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
        let (mut client, mut accepted) = pair();
        client.write_all(b"e").expect("written");
        accepted.read_exact(&mut byte).expect("a new one is not");
    }
}
