//! The cases of the interoperability tests.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use h2::{Reason, SendStream, client::ResponseFuture};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::UnboundedReceiverStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_prost::ProstCodec;

use super::service::{NAME, Note, Reader, Service, frame};
use crate::harness::{Authority, Gateway, Http2, Tls, answered, free_port, pour, within};

const MIB: usize = 1 << 20;

/// A caller.
#[derive(Clone)]
pub struct Caller(Grpc<Channel>);

type Codec = ProstCodec<Note, Note>;

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn path(method: &str) -> PathAndQuery {
    let path = if method.starts_with('/') { method.to_owned() } else { format!("{NAME}{method}") };
    path.parse().expect("a path")
}

impl Caller {
    pub async fn new(endpoint: Endpoint) -> Self {
        let channel = within("a channel", endpoint.connect()).await.expect("connects");
        Self(Grpc::new(channel).max_decoding_message_size(64 * MIB).max_encoding_message_size(64 * MIB))
    }

    pub async fn unary(&self, method: &str, request: Request<Note>) -> Result<Response<Note>, Status> {
        let mut grpc = self.0.clone();
        grpc.ready().await.expect("a channel");
        within(method, grpc.unary(request, path(method), Codec::default())).await
    }

    async fn client_streaming(
        &self,
        method: &str,
        notes: impl Stream<Item = Note> + Send + 'static,
    ) -> Result<Response<Note>, Status> {
        let mut grpc = self.0.clone();
        grpc.ready().await.expect("a channel");
        within(method, grpc.client_streaming(Request::new(notes), path(method), Codec::default())).await
    }

    pub async fn streaming(
        &self,
        method: &str,
        request: Request<impl Stream<Item = Note> + Send + 'static>,
    ) -> Result<Response<Streaming<Note>>, Status> {
        let mut grpc = self.0.clone();
        grpc.ready().await.expect("a channel");
        within(method, grpc.streaming(request, path(method), Codec::default())).await
    }
}

fn sized(payload: usize, sizes: &[u32]) -> Note {
    Note { payload: Bytes::from(vec![0; payload]), sizes: sizes.to_vec(), ..Note::default() }
}

fn failing(code: Code, message: &str) -> Note {
    Note { code: code as i32, message: message.to_owned(), ..Note::default() }
}

fn sends() -> (mpsc::UnboundedSender<Note>, UnboundedReceiverStream<Note>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, UnboundedReceiverStream::new(receiver))
}

async fn next(stream: &mut Streaming<Note>) -> Option<Note> {
    within("a message", stream.message()).await.expect("no error")
}

async fn empty_unary(caller: &Caller) {
    let answer = caller.unary("EmptyCall", Request::new(Note::default())).await.expect("an answer");
    assert_eq!(answer.into_inner(), Note::default());
}

async fn large_unary(caller: &Caller) {
    for (up, down) in [(271_828, 314_159), (10 * MIB, 10 * MIB)] {
        let request = sized(up, &[u32::try_from(down).expect("fits")]);
        let answer = caller.unary("UnaryCall", Request::new(request)).await.expect("an answer");
        assert_eq!(answer.into_inner().payload.len(), down);
    }
}

async fn client_streaming(caller: &Caller) {
    let sizes = [27_182, 8, 1_828, 45_904];
    let notes = tokio_stream::iter(sizes.map(|size| sized(size, &[])));
    let answer = caller.client_streaming("StreamingInputCall", notes).await.expect("an answer");
    assert_eq!(answer.into_inner().total, 74_922);
}

async fn server_streaming(caller: &Caller) {
    let sizes = [31_415, 9, 2_653, 58_979];
    let notes = tokio_stream::iter([sized(0, &sizes)]);
    let stream = caller.streaming("StreamingOutputCall", Request::new(notes)).await.expect("a stream").into_inner();
    let got: Vec<_> = within("all of them", stream.map(|note| note.expect("no error").payload.len()).collect()).await;
    assert_eq!(got, sizes.map(|size| size as usize));
}

async fn ping_pong(caller: &Caller) {
    let (sender, notes) = sends();
    let mut stream = caller.streaming("FullDuplexCall", Request::new(notes)).await.expect("a stream").into_inner();
    for (up, down) in [(27_182, 31_415), (8, 9), (1_828, 2_653), (45_904, 58_979)] {
        sender.send(sized(up, &[down])).expect("sends");
        assert_eq!(next(&mut stream).await.expect("a message").payload.len(), down as usize);
    }
    drop(sender);
    assert_eq!(next(&mut stream).await, None);
}

async fn empty_stream(caller: &Caller) {
    let request = Request::new(tokio_stream::empty());
    let mut stream = caller.streaming("FullDuplexCall", request).await.expect("a stream").into_inner();
    assert_eq!(next(&mut stream).await, None);
}

async fn timeout_on_sleeping_server(caller: &Caller) {
    let (_sender, notes) = sends();
    let mut request = Request::new(notes);
    request.set_timeout(Duration::from_millis(50));
    let ended = match caller.streaming("FullDuplexCall", request).await {
        Err(status) => status,
        Ok(stream) => within("the end", stream.into_inner().message()).await.expect_err("a status"),
    };
    // tonic's own clock says Cancelled, the gateway's DeadlineExceeded.
    assert!(matches!(ended.code(), Code::DeadlineExceeded | Code::Cancelled), "{ended:?}");
}

async fn custom_metadata(caller: &Caller) {
    let mut request = Request::new(sized(271_828, &[314_159]));
    let bin = MetadataValue::from_bytes(&[0xab, 0xab, 0xab]);
    request.metadata_mut().insert("x-grpc-test-echo-initial", "test_initial_metadata_value".parse().expect("a value"));
    request.metadata_mut().insert_bin("x-grpc-test-echo-trailing-bin", bin.clone());
    let answer = caller.unary("UnaryCall", request).await.expect("an answer");
    // A unary answer has the trailers among its metadata.
    assert_eq!(answer.metadata().get("x-grpc-test-echo-initial").expect("echoed"), "test_initial_metadata_value");
    assert_eq!(answer.metadata().get_bin("x-grpc-test-echo-trailing-bin"), Some(&bin));
}

async fn status_code_and_message(caller: &Caller) {
    let status = caller.unary("UnaryCall", Request::new(failing(Code::Unknown, "test status message"))).await;
    let status = status.expect_err("a status");
    assert_eq!((status.code(), status.message()), (Code::Unknown, "test status message"));
    let notes = tokio_stream::iter([failing(Code::Unknown, "test status message")]);
    let mut stream = caller.streaming("FullDuplexCall", Request::new(notes)).await.expect("a stream").into_inner();
    let status = within("the end", stream.message()).await.expect_err("a status");
    assert_eq!((status.code(), status.message()), (Code::Unknown, "test status message"));
}

async fn special_status_message(caller: &Caller) {
    let message = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
    let status = caller.unary("UnaryCall", Request::new(failing(Code::Unknown, message))).await;
    let status = status.expect_err("a status");
    assert_eq!((status.code(), status.message()), (Code::Unknown, message));
}

async fn unimplemented(caller: &Caller) {
    for method in ["UnimplementedCall", "/grpc.testing.UnimplementedService/UnimplementedCall", "/no.route/Here"] {
        let status = caller.unary(method, Request::new(Note::default())).await.expect_err("a status");
        assert_eq!(status.code(), Code::Unimplemented, "{method}: {status:?}");
    }
}

/// Begins a call by hand. tonic's client is of no use for giving calls up: it keeps a stream that is answered open for as
/// long as the request's messages may go on, whether anybody waits for the answer or not, and with no gateway either is
/// there a reset before they end.
async fn begin(client: &mut Http2, method: &str) -> (ResponseFuture, SendStream<Bytes>) {
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    let head = client.head("POST", path(method).as_str(), &fields);
    client.open(head, false).await
}

async fn cancel_after_begin(client: &mut Http2, service: &Service) {
    let (response, mut up) = begin(client, "StreamingInputCall").await;
    service.logged("StreamingInputCall: begun").await;
    up.send_reset(Reason::CANCEL);
    let error = within("the end", answered(response)).await.expect_err("nothing comes any more");
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    service.logged("StreamingInputCall: given up, CANCEL").await;
}

async fn cancel_after_first_response(client: &mut Http2, service: &Service) {
    let (response, mut up) = begin(client, "FullDuplexCall").await;
    pour(&mut up, frame(&sized(27_182, &[31_415])), false).await.expect("sends");
    let mut down = within("a head", response).await.expect("a head").into_body();
    let mut reader = Reader { stream: &mut down, buffer: Vec::new() };
    let first = within("a message", reader.next()).await.expect("a message").expect("a message");
    assert_eq!(first.payload.len(), 31_415);
    up.send_reset(Reason::CANCEL);
    let error = within("the end", reader.next()).await.expect_err("nothing comes any more");
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    service.logged("FullDuplexCall: given up, CANCEL").await;
}

#[tokio::test]
async fn the_interoperability_tests_pass_with_tls_and_without() {
    let authority = Authority::new();
    let server = authority.server(&authority.sign(&["up.example"]), &["h2"], false);
    let (plain, secure) = (free_port(), free_port());
    let ca = serde_json::to_string(&authority.pem).expect("a string");
    for tls_upstream in [false, true] {
        let service = Service::start(tls_upstream.then(|| server.clone())).await;
        let terms = if tls_upstream { format!("protocol: h2, tls: {{ca: {ca}}}") } else { "protocol: h2c".to_owned() };
        let manifest = format!(
            "certificates:\n{}listeners:\n- {{name: plain, address: \"127.0.0.1:{plain}\"}}\n\
             - {{name: secure, address: \"127.0.0.1:{secure}\", tls: {{certificates: [web]}}}}\n\
             backends:\n- {{name: service, {terms}, endpoints: [\"{}\"]}}\n\
             routes:\n- {{name: all, path: /grpc.testing.TestService, strip_prefix: false, backend: service}}\n\
             - {{name: other, path: /grpc.testing.UnimplementedService, strip_prefix: false, backend: service}}\n",
            authority.sign(&["gate.example"]).manifest("web"),
            service.url
        );
        let gateway = Gateway::builder().manifest(&manifest).start().await;
        let tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem)).domain_name("gate.example");
        let secured = Endpoint::try_from(format!("https://127.0.0.1:{secure}")).expect("a URL");
        let secured = secured.origin("https://gate.example".parse().expect("a URL")).tls_config(tls).expect("TLS");
        let in_the_clear = Endpoint::try_from(format!("http://127.0.0.1:{plain}")).expect("a URL");
        for endpoint in [in_the_clear, secured] {
            let caller = Caller::new(endpoint).await;
            service.log.lock().expect("a log").clear();
            empty_unary(&caller).await;
            large_unary(&caller).await;
            client_streaming(&caller).await;
            server_streaming(&caller).await;
            ping_pong(&caller).await;
            empty_stream(&caller).await;
            timeout_on_sleeping_server(&caller).await;
            custom_metadata(&caller).await;
            status_code_and_message(&caller).await;
            special_status_message(&caller).await;
            unimplemented(&caller).await;
        }
        let stream = Tls::of(&authority).alpn(&["h2"]).connect(local(secure), "gate.example").await.expect("TLS");
        let secured = Http2::over(stream, "https://gate.example", &h2::client::Builder::new()).await;
        for mut client in [Http2::connect(local(plain)).await, secured] {
            service.log.lock().expect("a log").clear();
            cancel_after_begin(&mut client, &service).await;
            cancel_after_first_response(&mut client, &service).await;
        }
        gateway.shutdown().await;
    }
}
