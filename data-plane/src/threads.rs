//! The workers' threads, and how the configuration path speaks to them.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use crate::{
    crew::Crew,
    listener::{self, ListenerState},
    plugin::mirror::copies,
    telemetry::access_log::{AccessLog, Sink},
    tls,
    worker::{Shared, Worker},
};

/// What a worker can be told.
#[derive(Debug)]
enum Command {
    /// Accept clients on this socket.
    Listen { key: u64, terms: Terms, socket: StdListener, done: oneshot::Sender<()> },
    /// It has another name or other TLS now.
    Change { key: u64, terms: Terms, done: oneshot::Sender<()> },
    /// Accept no more on it; connections that came in by it go on.
    Unlisten { key: u64, done: oneshot::Sender<()> },
    /// Accept no more at all, and let connections end.
    Drain,
    /// How many connections are there?
    Count { count: oneshot::Sender<usize> },
    /// End, whatever is still under way.
    Stop,
}

/// What a listener is, in a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// Its address as configured.
    pub address: SocketAddr,
    /// Its name.
    pub name: Arc<str>,
    /// Its TLS, if it has any.
    pub tls: Option<Arc<tls::Server>>,
    /// Whether it has plugins of its own.
    pub guarded: bool,
}

/// The workers, from outside.
#[derive(Debug)]
pub struct Threads {
    commands: Vec<mpsc::UnboundedSender<Command>>,
    handles: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Threads {
    /// Starts the crew's workers.
    ///
    /// # Errors
    /// The system's, if a thread or its runtime cannot be made.
    pub fn start(crew: &Arc<Crew>, shared: &Arc<Shared>, log: Option<&Sink>) -> io::Result<Self> {
        let mut threads = Self { commands: Vec::new(), handles: Mutex::default() };
        let mut handles = Vec::new();
        for index in 0..crew.len() {
            let (commands, inbox) = mpsc::unbounded_channel();
            let runtime = tokio::runtime::Builder::new_current_thread();
            let (shared, crew) = (Arc::clone(shared), Arc::clone(crew));
            let log = log.map(|sink| AccessLog::new(sink.clone(), Arc::clone(&shared.metrics)));
            let (started, starting) = std::sync::mpsc::channel();
            handles.push(thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let mut runtime = runtime;
                match runtime.enable_all().build_local(tokio::runtime::LocalOptions::default()) {
                    Ok(runtime) => {
                        let _ = started.send(Ok(()));
                        runtime.block_on(run(Worker::new(shared, log, crew, index), inbox));
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            })?);
            starting.recv().map_err(io::Error::other)??;
            threads.commands.push(commands);
        }
        threads.handles = handles.into();
        Ok(threads)
    }

    /// No workers.
    #[cfg(test)]
    pub fn none() -> Self {
        Self { commands: Vec::new(), handles: Mutex::default() }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Every worker accepts on its socket when this returns.
    pub async fn listen(&self, key: u64, terms: &Terms, sockets: Vec<StdListener>) {
        let mut pending = Vec::new();
        for (commands, socket) in self.commands.iter().zip(sockets) {
            let (done, is_done) = oneshot::channel();
            let _ = commands.send(Command::Listen { key, terms: terms.clone(), socket, done });
            pending.push(is_done);
        }
        all(pending).await;
    }

    /// Connections that come in by that listener get this name and this TLS, in every worker when this returns.
    pub async fn change(&self, key: u64, terms: &Terms) {
        let mut pending = Vec::new();
        for commands in &self.commands {
            let (done, is_done) = oneshot::channel();
            let _ = commands.send(Command::Change { key, terms: terms.clone(), done });
            pending.push(is_done);
        }
        all(pending).await;
    }

    /// No worker accepts on that listener when this returns.
    pub async fn unlisten(&self, key: u64) {
        let mut pending = Vec::new();
        for commands in &self.commands {
            let (done, is_done) = oneshot::channel();
            let _ = commands.send(Command::Unlisten { key, done });
            pending.push(is_done);
        }
        all(pending).await;
    }

    /// Begins to drain.
    pub fn drain(&self) {
        for commands in &self.commands {
            let _ = commands.send(Command::Drain);
        }
    }

    /// Connections open now.
    pub async fn connection_count(&self) -> usize {
        let mut total = 0;
        for commands in &self.commands {
            let (count, counted) = oneshot::channel();
            let _ = commands.send(Command::Count { count });
            total += counted.await.unwrap_or(0);
        }
        total
    }

    /// Ends the workers, whatever they still do, and waits for their end.
    pub fn stop(&self) {
        for commands in &self.commands {
            let _ = commands.send(Command::Stop);
        }
        for handle in self.handles.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = handle.join();
        }
    }
}

async fn all(pending: Vec<oneshot::Receiver<()>>) {
    for done in pending {
        let _ = done.await;
    }
}

/// A listener that a worker accepts on.
struct Listening {
    state: Rc<ListenerState>,
    stop: CancellationToken,
    accepting: tokio::task::JoinHandle<()>,
}

impl Listening {
    /// Returns when nothing more is accepted.
    async fn end(self) {
        self.stop.cancel();
        let _ = self.accepting.await;
    }
}

/// A worker's life: it ends when nobody can tell it anything any more.
async fn run(worker: Worker, mut inbox: mpsc::UnboundedReceiver<Command>) {
    let worker = Rc::new(worker);
    tokio::task::spawn_local(Rc::clone(&worker).tick());
    tokio::task::spawn_local(copies::send_all(Rc::clone(&worker)));
    let (_enlisted, mut handed) = worker.crew.enlist(worker.index);
    let mut listeners = HashMap::<u64, Listening>::new();
    loop {
        let command = tokio::select! {
            command = inbox.recv() => command,
            Some(handed) = handed.recv() => {
                let state = listeners.get(&handed.key).map(|listening| &listening.state);
                listener::adopt(&worker, handed, state);
                continue;
            }
        };
        let Some(command) = command else { break };
        match command {
            Command::Listen { key, terms, socket, done } => match TcpListener::from_std(socket) {
                Ok(listener) => {
                    let stop = CancellationToken::new();
                    let state = Rc::new(ListenerState::new(key, terms));
                    let accepting = listener::accept(Rc::clone(&worker), listener, Rc::clone(&state), stop.clone());
                    let accepting = tokio::task::spawn_local(accepting);
                    listeners.insert(key, Listening { state, stop, accepting });
                    let _ = done.send(());
                }
                Err(error) => tracing::error!(%error, listener = %terms.name, "cannot listen"),
            },
            Command::Change { key, terms, done } => {
                if listeners.get(&key).is_some_and(|listening| listening.state.set(terms)) {
                    worker.wake_connections();
                }
                let _ = done.send(());
            }
            Command::Unlisten { key, done } => {
                if let Some(listening) = listeners.remove(&key) {
                    listening.end().await;
                }
                let _ = done.send(());
            }
            Command::Drain => {
                for (_, listening) in listeners.drain() {
                    listening.end().await;
                }
                worker.drain();
            }
            Command::Count { count } => {
                let _ = count.send(worker.connection_count());
            }
            Command::Stop => break,
        }
    }
    if let Some(log) = &worker.log {
        log.flush();
    }
}
