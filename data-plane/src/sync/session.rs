//! One stream, from Hello to its end: heartbeats out, transactions in, Ack or Nack out.

use std::{convert::Infallible, sync::Arc, time::Duration};

use rustygate_proto::v1::{Ack, HealthReport, Heartbeat, StreamRequest, stream_request, stream_response::Message};
use tokio::{
    sync::{mpsc, watch},
    time::{self, MissedTickBehavior, timeout},
};

use super::{
    Config, Reports,
    apply::Applier,
    link::{Link, LinkError, message},
    receive::{Receiver, Refusal},
    stopping,
};

/// For a last answer to be on its way before the stream is given up.
const LINGER: Duration = Duration::from_millis(500);

/// Follows the stream until shutdown (`Ok`) or until it is lost.
pub(crate) async fn follow(
    link: Link,
    applier: &Applier,
    config: &Config,
    reports: Option<Reports>,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<(), LinkError> {
    let heartbeats = send_heartbeats(link.outgoing.clone(), config.heartbeat);
    let reports = send_reports(link.outgoing.clone(), reports);
    let session = Session { link, applier, silence: config.silence(), receiver: Receiver::default(), resyncing: false };
    tokio::select! {
        ended = session.receive(shutdown) => ended,
        never = heartbeats => match never {},
        never = reports => match never {},
    }
}

struct Session<'a> {
    link: Link,
    applier: &'a Applier,
    silence: Duration,
    receiver: Receiver,
    /// Everything was asked for anew, and nothing good came since.
    resyncing: bool,
}

impl Session<'_> {
    async fn receive(mut self, shutdown: &mut watch::Receiver<bool>) -> Result<(), LinkError> {
        loop {
            let received = tokio::select! {
                received = timeout(self.silence, self.link.incoming.message()) => received,
                () = stopping(shutdown) => return Ok(()),
            };
            let response = received.map_err(|_| LinkError::Silent(self.silence))??.ok_or(LinkError::Closed)?;
            self.applier.status.contact();
            match response.message {
                Some(Message::Begin(begin)) => self.receiver.begin(begin),
                Some(Message::Chunk(chunk)) => self.receiver.chunk(&chunk),
                Some(Message::Commit(commit)) => {
                    let revision = commit.revision;
                    let outcome = match self.receiver.commit(commit) {
                        Ok(transaction) => self.applier.apply(transaction).await,
                        Err(refusal) => Err(refusal),
                    };
                    self.answer(revision, outcome).await?;
                }
                // A message that this version does not know is as good as a heartbeat.
                Some(Message::Heartbeat(_)) | None => {}
            }
        }
    }

    async fn answer(&mut self, revision: u64, outcome: Result<(), Refusal>) -> Result<(), LinkError> {
        match outcome {
            Ok(()) => {
                self.resyncing = false;
                self.send(stream_request::Message::Ack(Ack { revision })).await
            }
            Err(refusal) => {
                let again = refusal.resync && self.resyncing;
                self.resyncing = refusal.resync;
                let nack = self.applier.refuse(refusal);
                self.send(stream_request::Message::Nack(nack)).await?;
                if !again {
                    return Ok(());
                }
                // Answering what comes at once would make a busy loop of two planes that disagree; the back-off
                // paces it. To hang up also discards what is not yet sent, hence the wait.
                let _ = timeout(LINGER, self.discard()).await;
                Err(LinkError::ResyncFailed)
            }
        }
    }

    async fn discard(&mut self) {
        while let Ok(Some(_)) = self.link.incoming.message().await {}
    }

    async fn send(&self, answer: stream_request::Message) -> Result<(), LinkError> {
        match timeout(self.silence, self.link.outgoing.send(message(answer))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(LinkError::Closed),
            Err(_) => Err(LinkError::Stuck),
        }
    }
}

/// Never ends: that the stream is lost is for the receiver to find, which may be in the middle of applying.
async fn send_heartbeats(outgoing: mpsc::Sender<StreamRequest>, interval: Duration) -> Infallible {
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A full queue means that there is something to send anyway.
        let _ = outgoing.try_send(message(stream_request::Message::Heartbeat(Heartbeat {})));
    }
}

/// Sends what is known of unhealthy endpoints, unless that is nothing, and again whenever it changes. Never ends either.
async fn send_reports(outgoing: mpsc::Sender<StreamRequest>, reports: Option<Reports>) -> Infallible {
    let Some(mut reports) = reports else { return std::future::pending().await };
    let mut said = Arc::default();
    loop {
        let report = Arc::clone(&reports.borrow_and_update());
        if report != said {
            let sent = outgoing.send(message(stream_request::Message::Health(HealthReport::clone(&report)))).await;
            if sent.is_err() {
                return std::future::pending().await;
            }
            said = report;
        }
        if reports.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
