//! Clients that ask and ask: half of them by HTTP/1.1, each on a connection of its own, half by HTTP/2, all on two.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::{
    net::TcpStream,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::harness::{Answer, Client, answered, within};

const CLIENTS: usize = 16;

/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(2);

/// See the module documentation.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    clients: JoinSet<Vec<String>>,
    drivers: Vec<JoinHandle<Result<(), h2::Error>>>,
}

/// A client.
enum Asker {
    Http1(Client),
    Http2(SendRequest<Bytes>),
}

impl Load {
    pub async fn start(proxy: SocketAddr) -> Self {
        let mut load = Self { stop: Arc::default(), sent: Arc::default(), clients: JoinSet::new(), drivers: vec![] };
        for _ in 0..CLIENTS / 2 {
            load.add(Asker::Http1(Client::connect(proxy).await));
        }
        for _ in 0..2 {
            let stream = TcpStream::connect(proxy).await.expect("connects");
            stream.set_nodelay(true).expect("a socket option");
            let (send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
            load.drivers.push(tokio::spawn(connection));
            for _ in 0..CLIENTS / 4 {
                load.add(Asker::Http2(send.clone()));
            }
        }
        load
    }

    fn add(&mut self, mut asker: Asker) {
        let (stop, sent) = (Arc::clone(&self.stop), Arc::clone(&self.sent));
        self.clients.spawn(async move {
            let mut failures = Vec::new();
            while !stop.load(SeqCst) {
                sent.fetch_add(1, SeqCst);
                failures.extend(asker.get().await.err());
                sleep(PAUSE).await;
            }
            failures
        });
    }

    /// How many requests were sent, and what went wrong.
    pub async fn end(mut self) -> (usize, Vec<String>) {
        self.stop.store(true, SeqCst);
        let mut failures = Vec::new();
        while let Some(of_client) = self.clients.join_next().await {
            failures.extend(of_client.expect("a client"));
        }
        // They end when nobody needs them any more, and not before.
        for driver in self.drivers {
            if let Err(error) = within("the end of a connection", driver).await.expect("a driver") {
                failures.push(format!("a connection of HTTP/2: {error}"));
            }
        }
        (self.sent.load(SeqCst), failures)
    }
}

impl Asker {
    /// Fails if the answer is not a good one.
    async fn get(&mut self) -> Result<(), String> {
        let (status, text) = match self {
            Self::Http1(client) => {
                let response = client.get("/").await;
                (response.status, response.text())
            }
            Self::Http2(send) => {
                let answer = within("an answer", ask(send.clone())).await.map_err(|error| error.to_string())?;
                (answer.status, answer.text())
            }
        };
        if status == 200 { Ok(()) } else { Err(format!("{status} {text}")) }
    }
}

async fn ask(send: SendRequest<Bytes>) -> Result<Answer, h2::Error> {
    let request = Request::get("http://a/").body(()).expect("a request");
    let (response, _) = send.ready().await?.send_request(request, true)?;
    answered(response).await
}
