//! A DNS server whose every answer the test says itself, over UDP and TCP. It writes messages by hand: what is tested
//! must not be what tests it.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    task::JoinHandle,
};

const A: u16 = 1;
const SOA: u16 = 6;
const AAAA: u16 = 28;

/// What fits one datagram.
const DATAGRAM: usize = 1232;

const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;

/// What the server says of a name.
#[derive(Clone, Debug)]
pub enum Say {
    /// It has these addresses; what is too long for a datagram is cut there, and whole over TCP.
    Is { v4: Vec<Ipv4Addr>, v6: Vec<Ipv6Addr>, ttl: u32 },
    /// The same as the first, after a while.
    Late(Duration, Vec<Ipv4Addr>),
    /// There is no such name; that holds for a second.
    NoSuchName,
    /// "I cannot."
    Failure,
    /// Nothing.
    Silence,
    /// These bytes after the question's id and flags.
    Bytes(Vec<u8>),
}

impl Say {
    /// IPv4 addresses on the loopback, 127.0.0.x.
    pub fn local(last: &[u8], ttl: u32) -> Self {
        Self::Is { v4: last.iter().map(|&last| Ipv4Addr::new(127, 0, 0, last)).collect(), v6: Vec::new(), ttl }
    }
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub name: String,
    pub kind: u16,
    pub tcp: bool,
}

/// A running server.
pub struct Dns {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Default)]
struct State {
    says: HashMap<String, Say>,
    queries: Vec<Query>,
}

impl Dns {
    pub async fn start() -> Self {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("an address")).await {
                break (udp, tcp);
            }
        };
        let addr = udp.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let tasks = [tokio::spawn(serve_udp(udp, state.clone())), tokio::spawn(serve_tcp(tcp, state.clone()))];
        Self { addr, state, tasks }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on; of a name that nothing was said of there is no such name.
    pub fn say(&self, name: &str, say: Say) {
        self.locked().says.insert(name.to_owned(), say);
    }

    /// All so far.
    pub fn queries(&self) -> Vec<Query> {
        self.locked().queries.clone()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn serve_udp(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let socket = Arc::new(socket);
    let mut buffer = [0; 4096];
    while let Ok((bytes, from)) = socket.recv_from(&mut buffer).await {
        let (question, state, socket) = (buffer[..bytes].to_vec(), state.clone(), socket.clone());
        tokio::spawn(async move {
            if let Some(mut answer) = answer(&question, false, &state).await {
                if answer.len() > DATAGRAM {
                    // Cut: the head and the question, with the flag that says so.
                    answer.truncate(question_end(&question).expect("a question"));
                    answer[2] |= 0x02;
                    answer[6..12].fill(0);
                }
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let state = state.clone();
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut question = vec![0; length.into()];
                if stream.read_exact(&mut question).await.is_err() {
                    return;
                }
                let Some(answer) = answer(&question, true, &state).await else { continue };
                let length = u16::try_from(answer.len()).expect("a message");
                if stream.write_u16(length).await.is_err() || stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn answer(question: &[u8], tcp: bool, state: &Mutex<State>) -> Option<Vec<u8>> {
    let end = question_end(question)?;
    let kind = u16::from_be_bytes([question[end - 4], question[end - 3]]);
    let name = name_of(&question[12..end - 4]);
    let say = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.queries.push(Query { name: name.clone(), kind, tcp });
        state.says.get(&name).cloned().unwrap_or(Say::NoSuchName)
    };
    Some(match say {
        Say::Is { v4, v6, ttl } => addresses(&question[..end], kind, &v4, &v6, ttl),
        Say::Late(pause, v4) => {
            tokio::time::sleep(pause).await;
            addresses(&question[..end], kind, &v4, &[], 60)
        }
        Say::NoSuchName => head(&question[..end], NO_SUCH_NAME, 0, true),
        Say::Failure => head(&question[..end], SERVER_FAILURE, 0, false),
        Say::Silence => return None,
        Say::Bytes(bytes) => [&question[..2], &[0x81, 0x80], &bytes].concat(),
    })
}

fn addresses(question: &[u8], kind: u16, v4: &[Ipv4Addr], v6: &[Ipv6Addr], ttl: u32) -> Vec<u8> {
    let data: Vec<Vec<u8>> = match kind {
        A => v4.iter().map(|address| address.octets().to_vec()).collect(),
        AAAA => v6.iter().map(|address| address.octets().to_vec()).collect(),
        _ => Vec::new(),
    };
    let mut message = head(question, NO_ERROR, u16::try_from(data.len()).expect("few"), data.is_empty());
    for data in data {
        // The name is that of the question, at byte 12.
        record(&mut message, 0xc00c, kind, ttl, &data);
    }
    message
}

/// A message without records but, where there is nothing, the zone's word that this holds for a second.
fn head(question: &[u8], code: u8, answers: u16, nothing: bool) -> Vec<u8> {
    let mut message = [&question[..2], &[0x81, 0x80 | code], &[0, 1]].concat();
    message.extend_from_slice(&answers.to_be_bytes());
    message.extend_from_slice(&u16::from(nothing).to_be_bytes());
    message.extend_from_slice(&[0, 0]);
    message.extend_from_slice(&question[12..]);
    if nothing {
        let mut data = vec![0, 0];
        for number in [1_u32, 1, 1, 1, 1] {
            data.extend_from_slice(&number.to_be_bytes());
        }
        record(&mut message, 0xc00c, SOA, 1, &data);
    }
    message
}

fn record(message: &mut Vec<u8>, name: u16, kind: u16, ttl: u32, data: &[u8]) {
    message.extend_from_slice(&name.to_be_bytes());
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message.extend_from_slice(&ttl.to_be_bytes());
    message.extend_from_slice(&u16::try_from(data.len()).expect("short").to_be_bytes());
    message.extend_from_slice(data);
}

/// Where the question, type and class included, ends.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = 12;
    loop {
        match *message.get(at)? {
            0 => break,
            length => at += 1 + usize::from(length),
        }
    }
    (message.len() >= at + 5).then_some(at + 5)
}

fn name_of(mut labels: &[u8]) -> String {
    let mut name = Vec::new();
    while let Some((&length, rest)) = labels.split_first().filter(|(length, _)| **length > 0) {
        let (label, rest) = rest.split_at(usize::from(length));
        name.push(String::from_utf8_lossy(label).to_lowercase());
        labels = rest;
    }
    name.join(".")
}
