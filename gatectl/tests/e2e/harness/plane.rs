//! A plane in a thread: asked by messages, drained or killed as a whole.

use std::{net::SocketAddr, thread, time::Duration};

use rustygate_control_plane as control_plane;
use rustygate_data_plane as data_plane;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
};

use super::within;

/// A running control plane.
pub struct ControlPlane {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    orders: mpsc::UnboundedSender<Order>,
}

/// A running data plane.
pub struct Proxy {
    pub admin: SocketAddr,
    orders: mpsc::UnboundedSender<Order>,
}

enum Order {
    Listeners(oneshot::Sender<Vec<(String, SocketAddr)>>),
    Ready(oneshot::Sender<()>),
    Drain(oneshot::Sender<()>),
    Kill(oneshot::Sender<()>),
}

impl ControlPlane {
    pub async fn start(settings: control_plane::settings::Settings) -> Self {
        let (orders, mut inbox) = mpsc::unbounded_channel();
        let (started, addresses) = oneshot::channel();
        thread::spawn(move || {
            let runtime = runtime();
            let ended = runtime.block_on(async {
                let running = control_plane::app::start(settings).await.expect("the control plane starts");
                let _ = started.send((running.grpc, running.http));
                match inbox.recv().await {
                    Some(Order::Drain(done)) => {
                        running.shutdown().await;
                        Some(done)
                    }
                    Some(Order::Kill(done)) => Some(done),
                    // The test is over, or has panicked.
                    _ => None,
                }
            });
            end(runtime, ended);
        });
        let (grpc, http) = within("control plane", addresses).await.expect("the control plane starts");
        Self { grpc, http, orders }
    }

    pub async fn drain(self) {
        stop(&self.orders, Order::Drain).await;
    }

    pub async fn kill(self) {
        stop(&self.orders, Order::Kill).await;
    }
}

impl Proxy {
    pub async fn start(settings: data_plane::settings::Settings) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (started, admin) = oneshot::channel();
        thread::spawn(move || {
            let runtime = runtime();
            let ended = runtime.block_on(async {
                let running = data_plane::app::start(settings).await.expect("the data plane starts");
                let _ = started.send(running.admin);
                obey(running, inbox).await
            });
            end(runtime, ended);
        });
        let admin = within("data plane", admin).await.expect("the data plane starts");
        Self { admin, orders }
    }

    /// What it is bound to now.
    pub async fn listeners(&self) -> Vec<(String, SocketAddr)> {
        let (reply, answer) = oneshot::channel();
        let _ = self.orders.send(Order::Listeners(reply));
        within("listeners of a proxy", answer).await.expect("the proxy runs")
    }

    /// Returns when it serves a first snapshot.
    pub async fn ready(&self) {
        let (reply, answer) = oneshot::channel();
        let _ = self.orders.send(Order::Ready(reply));
        within("a proxy that serves", answer).await.expect("the proxy runs");
    }

    pub async fn drain(self) {
        stop(&self.orders, Order::Drain).await;
    }

    pub async fn kill(self) {
        stop(&self.orders, Order::Kill).await;
    }
}

/// Answers until it is told to end, and returns who is to hear of the end.
async fn obey(
    running: data_plane::app::Running,
    mut inbox: mpsc::UnboundedReceiver<Order>,
) -> Option<oneshot::Sender<()>> {
    loop {
        match inbox.recv().await? {
            Order::Listeners(reply) => {
                let _ = reply.send(running.listeners());
            }
            Order::Ready(mut reply) => {
                tokio::select! {
                    () = running.ready() => { let _ = reply.send(()); }
                    () = reply.closed() => {}
                }
            }
            Order::Drain(done) => {
                running.shutdown().await;
                return Some(done);
            }
            Order::Kill(done) => return Some(done),
        }
    }
}

/// Every socket is closed before anybody hears of the end.
fn end(runtime: Runtime, ended: Option<oneshot::Sender<()>>) {
    runtime.shutdown_timeout(Duration::from_secs(5));
    if let Some(ended) = ended {
        let _ = ended.send(());
    }
}

async fn stop(orders: &mpsc::UnboundedSender<Order>, order: impl FnOnce(oneshot::Sender<()>) -> Order) {
    let (done, ended) = oneshot::channel();
    let _ = orders.send(order(done));
    within("the end of a plane", ended).await.expect("the plane ends in order");
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}
