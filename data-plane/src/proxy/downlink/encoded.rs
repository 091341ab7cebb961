//! A body that goes to the client in another coding than it came in.

use std::{io, pin::pin, time::Duration};

use super::{Down, Downlink, client_gone, stream_error};
use crate::{
    body::{Sink, Source},
    encoding::{self, Encoder},
    error::ProxyError,
    forward::Reply,
    http1::{Framing, body::Piece},
};

/// What one body may have encoded before others have their turn.
const BYTES_PER_TURN: usize = 64 << 10;

/// What has been encoded waits until there is so much of it, or the upstream pauses.
const SENT_BYTES_MIN: usize = 16 << 10;

/// An upstream that sends nothing for so long pauses: what it has sent goes to the client. To do so at every gap between two
/// packets would cost much of what is won.
const PAUSE: Duration = Duration::from_millis(5);

impl Downlink<'_, '_, '_> {
    /// Carries the answer's body through an encoder.
    pub(super) async fn encoded_body(&mut self, reply: Reply, mut encoder: Box<Encoder>) -> Result<Down, Down> {
        self.from.begin(self.response.framing);
        let mut carried = 0;
        loop {
            match self.from.next().map_err(broken)? {
                Piece::Data(bytes) => {
                    let bytes = bytes.min(BYTES_PER_TURN - carried);
                    encoder.write(self.from.bytes(bytes)).map_err(broken)?;
                    self.from.took(bytes);
                    if encoder.output().len() >= SENT_BYTES_MIN {
                        send(self.to, reply.framing, encoder.output()).await?;
                    }
                    carried += bytes;
                    if carried == BYTES_PER_TURN {
                        carried = 0;
                        tokio::task::yield_now().await;
                    }
                }
                Piece::More => {
                    self.record.ended = None;
                    match fill(&mut self.from, self.to, reply.framing, &mut encoder).await? {
                        Ok(0) => self.from.closed().map_err(|_| Down::Failed(ProxyError::UpstreamClosed))?,
                        Err(error) => return Err(Down::Failed(stream_error(&error))),
                        Ok(_) => self.flow.progress(),
                    }
                }
                Piece::End => {
                    let mut rest = encoder.finish().map_err(broken)?;
                    send(self.to, reply.framing, &mut rest).await?;
                    self.from.trailers_mut().retain(|name, _| !encoding::is_digest(name));
                    return self.end(reply).await;
                }
            }
        }
    }
}

/// Waits for more of the body. When it pauses, the client gets all there is.
async fn fill(
    from: &mut Source<'_>,
    to: &mut Sink<'_>,
    framing: Framing,
    encoder: &mut Encoder,
) -> Result<io::Result<usize>, Down> {
    // What a client holds up by taking nothing of many streams is little.
    let has_room = to.has_room();
    let mut fill = pin!(async {
        match has_room {
            true => from.fill().await,
            false => from.fill_little().await,
        }
    });
    if encoder.holds_some() {
        if let Ok(filled) = tokio::time::timeout(PAUSE, &mut fill).await {
            return Ok(filled);
        }
        encoder.flush().map_err(broken)?;
        send(to, framing, encoder.output()).await?;
    }
    to.flush().await.map_err(client_gone)?;
    Ok(fill.await)
}

/// Sends what has been encoded.
async fn send(to: &mut Sink<'_>, framing: Framing, encoded: &mut Vec<u8>) -> Result<(), Down> {
    // An empty chunk would be the last one.
    if !encoded.is_empty() {
        to.copy(framing, encoded).await.map_err(client_gone)?;
        encoded.clear();
    }
    Ok(())
}

/// The body is not what the upstream said that it was; nothing else can fail here.
fn broken<E>(_: E) -> Down {
    Down::Failed(ProxyError::UpstreamProtocol)
}
