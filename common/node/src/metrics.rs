//! Metrics: what a process tells of itself in numbers, as Prometheus collects them (`GET /metrics`, OpenMetrics text).
//!
//! Nothing is counted here. Whoever has numbers registers a function that is called when somebody asks, so that a metric
//! costs nothing in between. Names are those that Prometheus' JMX exporter gives to Kafka's own metrics, in lower case:
//! `kafka.server:type=ReplicaManager,name=LeaderCount` is `kafka_server_replicamanager_leadercount`.
//!
//! The server is bounded in everything that a stranger may send: connections at a time, the size of a request, and the time
//! for it. It answers one request on a connection.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use odradek_common::config::HostPort;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

use crate::world::{Listener, Socket, TaskHandle, World};

/// Whoever collects metrics has one or two connections.
const CONNECTIONS_MAX: usize = 16;
/// The least that the parser takes; a request for metrics has some hundred bytes.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// From the connection to the end of the answer.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
/// After a connection could not be accepted, as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const CONTENT: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Names of labels and their values.
pub type Labels = Vec<(&'static str, String)>;

/// One metric, with as many values as it has sets of labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    /// As it is to be read: `kafka_server_replicamanager_leadercount`.
    pub name: &'static str,
    /// A sentence.
    pub help: &'static str,
    pub values: Vec<(Labels, f64)>,
}

impl Gauge {
    /// A metric with one value and no labels.
    pub fn of(name: &'static str, help: &'static str, value: impl Into<f64>) -> Self {
        Self { name, help, values: vec![(Labels::new(), value.into())] }
    }

    /// As [`Gauge::of`], of a number of things.
    pub fn count(name: &'static str, help: &'static str, count: usize) -> Self {
        Self::of(name, help, count as f64)
    }
}

/// All that a process has to tell. Made once, at the start.
#[derive(Debug, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Registers a function that is called at each collection, on a thread where it may wait.
    pub fn register(&mut self, gauges: impl Fn() -> Vec<Gauge> + Send + Sync + 'static) {
        self.registry.register_collector(Box::new(Gauges(Box::new(gauges))));
    }

    /// All of it, as text.
    fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

struct Gauges(Box<dyn Fn() -> Vec<Gauge> + Send + Sync>);

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for gauge in (self.0)() {
            let mut metric = encoder.encode_descriptor(gauge.name, gauge.help, None, MetricType::Gauge)?;
            if let [(labels, value)] = gauge.values.as_slice()
                && labels.is_empty()
            {
                ConstGauge::new(*value).encode(metric)?;
                continue;
            }
            for (labels, value) in &gauge.values {
                let labels: Labels = labels.iter().map(|(name, text)| (*name, escaped(text))).collect();
                ConstGauge::new(*value).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// A label's value as the format wants it, which the library writes as it is.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Where metrics are going to be served.
pub struct MetricsListener {
    listener: Box<dyn Listener>,
    /// As it is to be told: with the port that was bound.
    pub address: HostPort,
}

impl fmt::Debug for MetricsListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MetricsListener({})", self.address)
    }
}

/// Binds `odradek.metrics.listener`, if there is one.
///
/// # Errors
/// When it cannot be listened on.
pub async fn bind(world: &World, address: Option<&HostPort>) -> anyhow::Result<Option<MetricsListener>> {
    let Some(address) = address else { return Ok(None) };
    let listener = world.net.bind(&address.host, address.port).await;
    let listener = listener.with_context(|| format!("cannot listen on {address} (odradek.metrics.listener)"))?;
    let port = listener.local_addr().map_or(address.port, |bound| bound.port());
    Ok(Some(MetricsListener { listener, address: HostPort { host: address.host.clone(), port } }))
}

impl MetricsListener {
    /// Serves until the handle's task is ended.
    pub fn serve(self, world: &World, metrics: Metrics) -> TaskHandle {
        tracing::info!(address = %self.address, "metrics are served at /metrics");
        let (world, task_world) = (world.clone(), world.clone());
        world.spawn("metrics", async move { accept(task_world, self.listener, Arc::new(metrics)).await })
    }
}

async fn accept(world: World, listener: Box<dyn Listener>, metrics: Arc<Metrics>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let socket = match listener.accept().await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics could not be accepted");
                world.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // One too many is closed at once; who asks regularly comes again.
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (own, metrics) = (world.clone(), metrics.clone());
        world.spawn("metrics connection", async move {
            let _place = place;
            match own.timeout(REQUEST_TIME_MAX, serve(&own, socket, metrics)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a request for metrics"),
                Err(elapsed) => tracing::debug!(error = %elapsed, "a request for metrics"),
            }
        });
    }
}

async fn serve(world: &World, socket: Socket, metrics: Arc<Metrics>) -> hyper::Result<()> {
    let answer = service_fn(|request: Request<hyper::body::Incoming>| {
        let metrics = metrics.clone();
        async move {
            // Its body, if it has one, is not read.
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            Ok::<_, Infallible>(answer(world, &method, &path, metrics).await)
        }
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), answer)
        .await
}

async fn answer(world: &World, method: &Method, path: &str, metrics: Arc<Metrics>) -> Response<Full<Bytes>> {
    if path != "/metrics" {
        return response(StatusCode::NOT_FOUND, TEXT, "metrics are at /metrics\n".into());
    }
    if method != Method::GET && method != Method::HEAD {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is served\n".into());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match world.on_disk(move || metrics.text()).await {
        Ok(text) => response(StatusCode::OK, CONTENT, text),
        Err(fmt::Error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the metrics cannot be written\n".into()),
    }
}

fn response(status: StatusCode, content: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn metrics() -> Metrics {
        let mut metrics = Metrics::default();
        metrics.register(|| {
            let of = |dir: &str| vec![("logDirectory", dir.to_owned())];
            vec![
                Gauge::count("odradek_one", "One number.", 3),
                Gauge {
                    name: "odradek_two",
                    help: "Two numbers.",
                    values: vec![(of("/a"), 1.5), (of("/\"b\\\n"), 0.0)],
                },
            ]
        });
        metrics
    }

    #[test]
    fn the_text_is_openmetrics() {
        let expected = "# HELP odradek_one One number.\n# TYPE odradek_one gauge\nodradek_one 3.0\n\
                        # HELP odradek_two Two numbers.\n# TYPE odradek_two gauge\n\
                        odradek_two{logDirectory=\"/a\"} 1.5\nodradek_two{logDirectory=\"/\\\"b\\\\\\n\"} 0.0\n# EOF\n";
        assert_eq!(metrics().text().expect("written"), expected);
    }

    async fn ask(port: u16, request: &[u8]) -> String {
        let mut socket = World::real().net.connect("127.0.0.1", port).await.expect("connected");
        socket.write_all(request).await.expect("sent");
        let mut answer = Vec::new();
        // A connection that is refused may end with a reset.
        let _ = socket.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn whatever_is_asked_is_answered_or_closed() {
        let world = World::real();
        let address = HostPort { host: "127.0.0.1".to_owned(), port: 0 };
        let listener = bind(&world, Some(&address)).await.expect("bound").expect("an address");
        let port = listener.address.port;
        let task = listener.serve(&world, metrics());
        let long = [b"GET /".to_vec(), vec![b'x'; 3 * REQUEST_BYTES_MAX], b" HTTP/1.1\r\n\r\n".to_vec()].concat();
        let many: Vec<u8> = (0..3000).flat_map(|n| format!("a{n}: b\r\n").into_bytes()).collect();
        let many = [b"GET /metrics HTTP/1.1\r\n".to_vec(), many, b"\r\n".to_vec()].concat();
        let cases: [(&[u8], &str); 8] = [
            (b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n", "HTTP/1.1 200 OK"),
            (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK"),
            (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "HTTP/1.1 404 Not Found"),
            (b"POST /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
            (b"\x00\x00\x00\x10\x00\x12\x00\x03garbage\r\n\r\n", "HTTP/1.1 400 Bad Request"),
            (b"GET /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", "HTTP/1.1 400 Bad Request"),
            (&long, "HTTP/1.1 4"),
            (&many, "HTTP/1.1 4"),
        ];
        for (request, expected) in cases {
            let answer = ask(port, request).await;
            let shown = String::from_utf8_lossy(request.get(..60.min(request.len())).unwrap_or_default()).into_owned();
            // What is too long may be refused by a reset, which takes the answer along.
            assert!(answer.starts_with(expected) || (request.len() > 1000 && answer.is_empty()), "{shown}: {answer}");
            assert_eq!(answer.contains("odradek_one 3.0"), expected.ends_with("200 OK"), "{shown}: {answer}");
        }
        // Connections that say nothing take all places, and give them back when they end.
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(world.net.connect("127.0.0.1", port).await.expect("connected"));
        }
        drop(silent);
        let mut served = String::new();
        while !served.contains("200 OK") {
            served = ask(port, b"GET /metrics HTTP/1.0\r\n\r\n").await;
        }
        task.abort();
    }

    #[tokio::test]
    async fn without_an_address_nothing_is_bound_and_a_taken_one_is_named() {
        let world = World::real();
        assert!(bind(&world, None).await.expect("nothing to do").is_none());
        let address = HostPort { host: "127.0.0.1".to_owned(), port: 0 };
        let first = bind(&world, Some(&address)).await.expect("bound").expect("an address");
        let error = bind(&world, Some(&first.address)).await.expect_err("taken").to_string();
        assert!(error.contains("odradek.metrics.listener") && error.contains(&first.address.to_string()), "{error}");
    }
}
