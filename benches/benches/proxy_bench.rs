//! What a request costs through the whole proxy: a client's kept-alive connection, one worker, a backend, all in this
//! process and over real sockets.
//!
//! The time of a single request is a round trip through three threads and so mostly the system's; a batch of pipelined
//! requests comes nearer to what the proxy itself spends.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use clap::{Args, Parser};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustygate_benches::peers::{
    backend,
    load::{Answer, Load},
    process,
};
use rustygate_control_plane as control_plane;
use rustygate_data_plane as data_plane;
use rustygate_proto::v1 as wire;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Requests that are sent at once.
const PIPELINED: usize = 16;

/// How long anything may take before the bench gives up.
const TIME_MAX: Duration = Duration::from_secs(20);

const FREE_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn proxy(criterion: &mut Criterion) {
    let gateway = Gateway::start();
    let mut client = Client::connect(gateway.address);

    criterion.bench_function("proxy_single_request", |bencher| {
        let request = Load::Small.spec().request();
        bencher.iter(|| client.exchange(&request, 1, Answer::Small.bytes()));
    });

    let mut group = criterion.benchmark_group("proxy_pipelined");
    group.throughput(Throughput::Elements(PIPELINED as u64));
    group.bench_function(PIPELINED.to_string(), |bencher| {
        let requests = Load::Small.spec().request().repeat(PIPELINED);
        bencher.iter(|| client.exchange(&requests, PIPELINED, Answer::Small.bytes()));
    });
    group.finish();

    let mut group = criterion.benchmark_group("proxy_body");
    for load in [Load::Kib64, Load::Post] {
        let (request, answer_bytes) = (load.spec().request(), load.spec().answer.bytes());
        group.throughput(Throughput::Bytes((request.len() + answer_bytes) as u64));
        group.bench_function(load.spec().name, |bencher| {
            bencher.iter(|| client.exchange(&request, 1, answer_bytes));
        });
    }
    group.finish();
}

/// Both planes and a backend.
struct Gateway {
    address: SocketAddr,
    /// Stops what runs on it when it is dropped, which is before the folder is.
    _runtime: Runtime,
    _proxy: data_plane::app::Running,
    _control_plane: control_plane::app::Running,
    _folder: TempDir,
}

impl Gateway {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [upstream] = process::free_addresses().expect("a free port");
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(backend::serve(upstream)).expect("the backend serves");
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let (control_plane, proxy) = runtime.block_on(async {
            process::wait_until_open(upstream).await.expect("the backend listens");
            let control_plane = control_plane::app::start(control_plane::settings::Settings {
                database: folder.path().join("rustygate.db"),
                grpc_listen: FREE_PORT,
                http_listen: FREE_PORT,
                ..defaults()
            });
            let control_plane = control_plane.await.expect("the control plane starts");
            let yaml = format!("routes: [{{path: /, backend: \"http://{upstream}\"}}]\n");
            let documents = vec![wire::Document { file: "bench.yaml".to_owned(), yaml }];
            let request = wire::ApplyRequest { documents, ..Default::default() };
            let applied = control_plane.applier().apply(request, control_plane::apply::Options::default());
            assert_eq!(applied.await.expect("the store works").faults, []);
            let proxy = data_plane::app::start(data_plane::settings::Settings {
                control_plane: format!("http://{}", control_plane.grpc),
                listen: FREE_PORT,
                admin_listen: FREE_PORT,
                workers: Some(1),
                access_log: data_plane::settings::AccessLogTarget::Off,
                ..defaults()
            });
            let proxy = proxy.await.expect("the data plane starts");
            tokio::time::timeout(TIME_MAX, proxy.ready()).await.expect("the proxy serves");
            (control_plane, proxy)
        });
        let (_, address) = proxy.listeners()[0];
        Self { address, _runtime: runtime, _proxy: proxy, _control_plane: control_plane, _folder: folder }
    }
}

/// What a plane runs with when nobody says anything.
fn defaults<S: Args>() -> S {
    #[derive(Parser)]
    struct Flags<S: Args> {
        #[command(flatten)]
        settings: S,
    }
    Flags::parse_from(["bench"]).settings
}

/// One kept-alive connection.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the proxy accepts");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(TIME_MAX)).expect("a socket option");
        Self { stream, buffer: vec![0; 256 << 10], filled: 0 }
    }

    /// Sends so many requests at once and reads as many answers.
    fn exchange(&mut self, requests: &[u8], answers: usize, body_bytes: usize) {
        self.stream.write_all(requests).expect("the proxy reads");
        let mut taken = 0;
        for _ in 0..answers {
            taken += self.read_answer(taken, body_bytes);
        }
        assert_eq!(taken, self.filled, "bytes after the last answer");
        self.filled = 0;
    }

    /// Reads on until a whole answer is there; how long it is.
    fn read_answer(&mut self, from: usize, body_bytes: usize) -> usize {
        loop {
            let bytes = &self.buffer[from..self.filled];
            if let Some(head_end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                assert!(bytes.starts_with(b"HTTP/1.1 200 "), "{}", bytes.escape_ascii());
                let whole = head_end + 4 + body_bytes;
                while self.filled < from + whole {
                    self.fill();
                }
                return whole;
            }
            self.fill();
        }
    }

    fn fill(&mut self) {
        let read = self.stream.read(&mut self.buffer[self.filled..]).expect("the proxy answers in time");
        assert_ne!(read, 0, "the proxy closed the connection");
        self.filled += read;
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = proxy
}
criterion_main!(benches);
