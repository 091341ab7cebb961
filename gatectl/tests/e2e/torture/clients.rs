//! Clients with short requests: on one connection for ever, on a new one each time, many requests in one write.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet, time::sleep};

use super::{
    course::Course,
    upstream::{Digest, told},
    yaml::Listeners,
};
use crate::harness::{Client, Response, within};

/// Requests in one write.
const PIPELINED: u64 = 8;

/// Leaves the machine to the others for a moment.
pub const PAUSE: Duration = Duration::from_millis(3);

/// A set of clients of one proxy.
pub fn spawn(work: &mut JoinSet<()>, addr: SocketAddr, course: &Arc<Course>) {
    for seed in 0..3 {
        work.spawn(keep_alive(addr, Arc::clone(course), seed));
        work.spawn(pipeline(addr, Arc::clone(course), seed));
    }
    work.spawn(newcomers(addr, Arc::clone(course)));
}

/// Clients of listeners that come and go.
pub fn spawn_visitors(work: &mut JoinSet<()>, listeners: Listeners, course: &Arc<Course>) {
    work.spawn(visit(listeners.slow, Listeners::has_slow, Arc::clone(course)));
    work.spawn(visit(listeners.fast, Listeners::has_fast, Arc::clone(course)));
    for addr in [listeners.slow, listeners.fast] {
        work.spawn(stay(addr, Arc::clone(course)));
    }
}

/// GET, POST and an answer of the gateway's own in turn, on one connection.
async fn keep_alive(addr: SocketAddr, course: Arc<Course>, seed: u64) {
    let mut client = Client::connect(addr).await;
    requests(&mut client, "a", &course, seed).await;
}

/// Until the end, or until something is wrong.
pub async fn requests(client: &mut Client, host: &str, course: &Course, seed: u64) {
    let mut floor = 0;
    for turn in seed.. {
        if course.is_over() {
            return;
        }
        floor = course.served().max(floor);
        let seen = match turn % 3 {
            0 => get(client, host, course, turn, floor).await,
            1 => post(client, host, course, turn, floor).await,
            _ => local(client, host, course, floor).await,
        };
        match seen {
            Some(number) => floor = number,
            None => return,
        }
        sleep(PAUSE).await;
    }
}

async fn get(client: &mut Client, host: &str, course: &Course, turn: u64, floor: u64) -> Option<u64> {
    let request = format!("GET /service/echo/{turn} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client.send(request.as_bytes()).await;
    let answer = answer(client).await;
    course.judge("GETs", answer.as_ref(), floor, |number| told_of_echo("GET", turn, number, Digest::default()))
}

async fn post(client: &mut Client, host: &str, course: &Course, turn: u64, floor: u64) -> Option<u64> {
    let length = usize::try_from(turn * 997 % 40_000).expect("small");
    let body: Vec<u8> = format!("{turn},").bytes().cycle().take(length).collect();
    let head = format!("POST /service/echo/{turn} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
    client.send(&[head.as_bytes(), &body].concat()).await;
    let mut digest = Digest::default();
    digest.add(&body);
    let answer = answer(client).await;
    course.judge("POSTs", answer.as_ref(), floor, |number| told_of_echo("POST", turn, number, digest))
}

async fn local(client: &mut Client, host: &str, course: &Course, floor: u64) -> Option<u64> {
    client.send(format!("GET /local HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
    let answer = answer(client).await;
    course.judge("answers by a plugin", answer.as_ref(), floor, |number| format!("said by {number}"))
}

/// Even configurations have a more exact route for these, which strips more of the path.
pub fn told_of_echo(method: &str, turn: u64, number: u64, body: Digest) -> String {
    let path = if number.is_multiple_of(2) { format!("/{turn}") } else { format!("/echo/{turn}") };
    told(method, &path, number, body)
}

/// Several requests in one write, GETs and POSTs mixed; each is answered by itself, in order.
async fn pipeline(addr: SocketAddr, course: Arc<Course>, seed: u64) {
    let mut client = Client::connect(addr).await;
    let mut floor = 0;
    for round in seed.. {
        if course.is_over() {
            return;
        }
        floor = course.served().max(floor);
        let mut bytes = Vec::new();
        for turn in round..round + PIPELINED {
            let request = match turn % 2 {
                0 => format!("GET /service/echo/{turn} HTTP/1.1\r\nHost: a\r\n\r\n"),
                _ => format!("POST /service/echo/{turn} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345"),
            };
            bytes.extend_from_slice(request.as_bytes());
        }
        client.send(&bytes).await;
        for turn in round..round + PIPELINED {
            let answer = answer(&mut client).await;
            let mut digest = Digest::default();
            let method = if turn % 2 == 0 { "GET" } else { "POST" };
            digest.add(if turn % 2 == 0 { b"" } else { b"12345" });
            let body = |number| told_of_echo(method, turn, number, digest);
            match course.judge("pipelined requests", answer.as_ref(), floor, body) {
                Some(number) => floor = number,
                None => return,
            }
        }
        sleep(PAUSE).await;
    }
}

/// A new connection for each request.
async fn newcomers(addr: SocketAddr, course: Arc<Course>) {
    while !course.is_over() {
        let floor = course.served();
        match TcpStream::connect(addr).await {
            Ok(stream) => {
                course.count("new connections");
                let _ = get(&mut Client::over(stream), "a", &course, 7, floor).await;
            }
            Err(error) => course.fault(format!("a new connection: {error}")),
        }
        sleep(PAUSE).await;
    }
}

/// New connections to a listener that comes and goes. Only while it is sure to be there must they succeed.
async fn visit(addr: SocketAddr, is_there: fn(u64) -> bool, course: Arc<Course>) {
    while !course.is_over() {
        let floor = course.served();
        let answer = try_get(addr).await;
        let sure = (floor..=course.sent()).all(is_there);
        if sure || answer.is_some() {
            let what = if sure { "visits to a listener that is there" } else { "visits to one that may be there" };
            let _ = course.judge(what, answer.as_ref(), floor, |number| format!("said by {number}"));
        }
        sleep(PAUSE).await;
    }
}

async fn try_get(addr: SocketAddr) -> Option<Response> {
    let mut stream = TcpStream::connect(addr).await.ok()?;
    stream.write_all(b"GET /local HTTP/1.1\r\nHost: a\r\n\r\n").await.ok()?;
    answer(&mut Client::over(stream)).await
}

/// A connection that came in by a listener that comes and goes stays.
async fn stay(addr: SocketAddr, course: Arc<Course>) {
    let client = async {
        loop {
            // One answer shows that it was accepted: from there on nothing may end it.
            if let Ok(mut stream) = TcpStream::connect(addr).await
                && stream.write_all(b"GET /local HTTP/1.1\r\nHost: a\r\n\r\n").await.is_ok()
            {
                let mut client = Client::over(stream);
                if client.try_response(false).await.is_some() {
                    return client;
                }
            }
            sleep(PAUSE).await;
        }
    };
    let mut client = within("a connection to a listener that comes and goes", client).await;
    course.count("connections that outlive their listener");
    requests(&mut client, "a", &course, 0).await;
}

async fn answer(client: &mut Client) -> Option<Response> {
    within("an answer", client.try_response(false)).await
}
