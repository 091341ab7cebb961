//! Upstreams as those of [`super::upstream`], by HTTP/2: with TLS, where whoever asks chooses, or in the clear.

use std::sync::Arc;

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, Request};
use rustls::ServerConfig;
use tokio::{task::JoinSet, time::sleep};
use tokio_rustls::TlsAcceptor;

use super::{
    calls,
    upstream::{self, Connection, Digest, PIECE_PAUSE, Upstream, piece},
};
use crate::harness::{pour, reply};

/// In the clear.
pub async fn clear() -> Upstream {
    Upstream::serving(serve).await
}

/// With TLS.
pub async fn secure(config: Arc<ServerConfig>) -> Upstream {
    let acceptor = TlsAcceptor::from(config);
    Upstream::serving(move |stream| {
        let accepting = acceptor.accept(stream);
        async move {
            let Ok(stream) = accepting.await else { return };
            match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => serve(stream).await,
                _ => upstream::serve(stream).await,
            }
        }
    })
    .await
}

async fn serve(stream: impl Connection) {
    let mut builder = Builder::new();
    builder.enable_connect_protocol();
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    // Aborted with the set.
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        streams.spawn(async move { drop(answer(request, respond).await) });
        while streams.try_join_next().is_some() {}
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let target = head.uri.path();
    let asked_by = head.headers.get("x-asked-by").and_then(|value| value.to_str().ok()).unwrap_or("nobody");
    let seen = format!("{target} asked by {asked_by}");
    let action: Vec<&str> = target.split('/').skip(2).collect();
    match (head.method.as_str(), &action[..]) {
        ("CONNECT", _) => {
            let down = respond.send_response(reply(200, &[("x-seen", &seen)]), false)?;
            give_back(body, down).await
        }
        (_, ["torture.Echo", ..]) => {
            let down = respond.send_response(reply(200, &[("content-type", "application/grpc")]), false)?;
            calls::answer(body, down, &seen).await
        }
        (_, ["download", pieces]) => {
            let pieces = pieces.parse().expect("a number");
            let mut down = respond.send_response(reply(200, &[]), false)?;
            for index in 0..pieces {
                pour(&mut down, piece(pieces, index).into(), false).await?;
                sleep(PIECE_PAUSE).await;
            }
            down.send_data(Bytes::new(), true)
        }
        (method, _) => {
            let mut digest = Digest::default();
            while let Some(part) = next(&mut body).await? {
                digest.add(&part);
            }
            let text = digest.told(method, &seen);
            let mut down = respond.send_response(reply(200, &[]), false)?;
            pour(&mut down, text.into(), true).await
        }
    }
}

async fn give_back(mut body: RecvStream, mut down: SendStream<Bytes>) -> Result<(), h2::Error> {
    while let Some(part) = next(&mut body).await? {
        pour(&mut down, part, false).await?;
    }
    down.send_data(Bytes::new(), true)
}

/// The next part of a body, for which there is room again.
pub async fn next(body: &mut RecvStream) -> Result<Option<Bytes>, h2::Error> {
    let Some(part) = body.data().await.transpose()? else { return Ok(None) };
    body.flow_control().release_capacity(part.len())?;
    Ok(Some(part))
}

/// What ends a call that went well.
pub fn well() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))])
}
