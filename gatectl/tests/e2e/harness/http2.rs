//! Both ends of HTTP/2: a client's connection, and an upstream whose requests a test takes one by one.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{self, ResponseFuture, SendRequest},
    server::{self, SendResponse},
};
use http::{HeaderMap, Request, Response};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use super::within;

/// A client's connection.
pub struct Http2 {
    send: SendRequest<Bytes>,
    /// Ends with the connection: with what it failed of, if it did.
    pub driver: JoinHandle<Result<(), h2::Error>>,
    /// What requests begin with.
    pub origin: String,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
    /// The statuses of the 1xx answers before it.
    pub interim: Vec<u16>,
}

impl Answer {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Http2 {
    /// Without TLS, by prior knowledge.
    pub async fn connect(addr: SocketAddr) -> Self {
        let tcp = within("a connection", TcpStream::connect(addr)).await.expect("connects");
        tcp.set_nodelay(true).expect("a socket option");
        Self::over(tcp, &format!("http://{addr}"), &client::Builder::new()).await
    }

    /// On a connection that is open.
    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        origin: &str,
        builder: &client::Builder,
    ) -> Self {
        let handshake = builder.handshake(stream);
        let (send, connection) = within("an HTTP/2 handshake", handshake).await.expect("HTTP/2");
        Self { send, driver: tokio::spawn(connection), origin: origin.to_owned() }
    }

    /// Sends a head; `end` if that is all.
    pub async fn open(&mut self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        self.try_open(request, end).await.expect("a stream")
    }

    /// The same, if the connection takes it.
    pub async fn try_open(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut send = within("a stream", self.send.clone().ready()).await?;
        send.send_request(request, end)
    }

    /// A head with this connection's origin.
    pub fn head(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.origin));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    /// Whether the other end said that it takes WebSockets (RFC 8441), as far as it said anything.
    pub fn takes_websockets(&self) -> bool {
        self.send.is_extended_connect_protocol_enabled()
    }

    /// A head that asks for a WebSocket.
    pub fn websocket(&self, path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut head = self.head("CONNECT", path, headers);
        head.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        head
    }

    /// GET.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, &[], b"").await
    }

    /// Any request, whole.
    pub async fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_request(method, path, headers, body).await.expect("a whole answer")
    }

    /// The same, if it is answered.
    pub async fn try_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, h2::Error> {
        let head = self.head(method, path, headers);
        let (response, mut stream) = self.try_open(head, body.is_empty()).await?;
        if !body.is_empty() {
            // An answer may come before all of it is sent.
            let body = Bytes::copy_from_slice(body);
            tokio::spawn(async move { pour(&mut stream, body, true).await });
        }
        within("an answer", answered(response)).await
    }
}

/// Sends bytes as the other side takes them.
pub async fn pour(stream: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let Some(room) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return Err(Reason::CANCEL.into());
        };
        let piece = bytes.split_to(room?.min(bytes.len()));
        stream.send_data(piece, false)?;
    }
    if end { stream.send_data(Bytes::new(), true) } else { Ok(()) }
}

/// Reads an answer to its end.
pub async fn answered(mut response: ResponseFuture) -> Result<Answer, h2::Error> {
    let mut interim = Vec::new();
    let response = std::future::poll_fn(|cx| {
        while let std::task::Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
            interim.push(head.status().as_u16());
        }
        std::pin::Pin::new(&mut response).poll(cx)
    });
    let (parts, mut stream) = response.await?.into_parts();
    let (body, trailers) = body_of(&mut stream).await?;
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body, trailers, interim })
}

/// Reads a body to its end, and gives room for more as it is read.
pub async fn body_of(stream: &mut RecvStream) -> Result<(Vec<u8>, HeaderMap), h2::Error> {
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    Ok((body, stream.trailers().await?.unwrap_or_default()))
}

/// A request that came to a [`Peer`].
pub struct Asked {
    /// Which connection it came by, from 0.
    pub connection: usize,
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
}

impl Asked {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name).map(|value| value.to_str().expect("text"))
    }

    /// Answers with a text.
    pub fn say(mut self, status: u16, text: &str) {
        let head = Response::builder().status(status).body(()).expect("a head");
        let mut stream = self.respond.send_response(head, false).expect("sends");
        stream.send_data(Bytes::copy_from_slice(text.as_bytes()), true).expect("sends");
    }

    /// Returns when the gateway gives the stream up, with the reason it gives.
    pub async fn given_up(&mut self) -> Reason {
        let reset = std::future::poll_fn(|cx| self.respond.poll_reset(cx));
        within("a reset of the stream", reset).await.expect("a reason")
    }
}

/// The head of an answer, with these fields.
pub fn reply(status: u16, headers: &[(&str, &str)]) -> Response<()> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(()).expect("a head")
}

/// What is to become of a peer's connections.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// GOAWAY in order.
    Farewell,
    /// GOAWAY at once, with this reason; what is under way ends.
    End(Reason),
}

/// An upstream that speaks HTTP/2; it ends with this.
pub struct Peer {
    addr: SocketAddr,
    secure: bool,
    asked: mpsc::UnboundedReceiver<Asked>,
    orders: Orders,
    accept: JoinHandle<()>,
}

type Orders = Arc<Mutex<Vec<mpsc::UnboundedSender<Order>>>>;

impl Peer {
    /// In the clear.
    pub async fn start() -> Self {
        Self::start_with(server::Builder::new(), None).await
    }

    /// With these settings of HTTP/2, and with TLS if there is a configuration.
    pub async fn start_with(builder: server::Builder, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("an address");
        let (sender, asked) = mpsc::unbounded_channel();
        let orders = Orders::default();
        let secure = tls.is_some();
        let accept = tokio::spawn(accept(listener, tls.map(TlsAcceptor::from), builder, sender, Arc::clone(&orders)));
        Self { addr, secure, asked, orders, accept }
    }

    /// Answers every request with what `answer` does.
    pub async fn serving<F: Future<Output = ()> + Send + 'static>(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(Asked) -> F + Send + 'static,
    ) -> (String, JoinHandle<()>) {
        let mut peer = Self::start_with(server::Builder::new(), tls).await;
        let url = peer.url();
        let task = tokio::spawn(async move {
            while let Some(asked) = peer.asked.recv().await {
                tokio::spawn(answer(asked));
            }
        });
        (url, task)
    }

    /// The address as a URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.addr)
    }

    /// The next request.
    pub async fn next(&mut self) -> Asked {
        within("a request to the upstream", self.asked.recv()).await.expect("the upstream runs")
    }

    /// Whether no request has come.
    pub fn is_quiet(&mut self) -> bool {
        self.asked.try_recv().is_err()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Says on every connection that no more requests are welcome.
    pub fn farewell(&self) {
        self.order(Order::Farewell);
    }

    /// Ends every connection.
    pub fn end(&self, reason: Reason) {
        self.order(Order::End(reason));
    }

    fn order(&self, order: Order) {
        for sender in &*self.orders.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = sender.send(order);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    builder: server::Builder,
    sender: mpsc::UnboundedSender<Asked>,
    orders: Orders,
) {
    // Aborted with the set when the peer goes.
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let _ = tcp.set_nodelay(true);
        let (order, inbox) = mpsc::unbounded_channel();
        let index = {
            let mut orders = orders.lock().unwrap_or_else(PoisonError::into_inner);
            orders.push(order);
            orders.len() - 1
        };
        let (tls, builder, sender) = (tls.clone(), builder.clone(), sender.clone());
        connections.spawn(async move {
            match tls {
                None => serve(tcp, index, &builder, &sender, inbox).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(tcp).await {
                        serve(stream, index, &builder, &sender, inbox).await;
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: usize,
    builder: &server::Builder,
    sender: &mpsc::UnboundedSender<Asked>,
    mut inbox: mpsc::UnboundedReceiver<Order>,
) {
    let Ok(mut driven) = builder.handshake::<_, Bytes>(stream).await else { return };
    loop {
        tokio::select! {
            accepted = driven.accept() => match accepted {
                Some(Ok((request, respond))) => drop(sender.send(Asked { connection, request, respond })),
                _ => return,
            },
            Some(order) = inbox.recv() => match order {
                Order::Farewell => driven.graceful_shutdown(),
                Order::End(reason) => driven.abrupt_shutdown(reason),
            },
        }
    }
}
