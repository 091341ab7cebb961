use std::{collections::HashMap, net::Ipv4Addr};

use tokio::net::TcpListener;

use super::{
    super::{Answer, Family},
    *,
};

const HOST: &str = "service.test";

/// A name with these addresses.
fn names(addresses: &[IpAddr]) -> (Arc<Names>, Arc<Name>) {
    let (names, name) = (Arc::new(Names::default()), Arc::new(Name::new(HOST)));
    names.insert(&[Arc::clone(&name)]);
    teach(&names, &name, addresses);
    (names, name)
}

fn teach(names: &Names, name: &Name, addresses: &[IpAddr]) {
    let ttl = Duration::from_secs(60);
    let v4 = Family::Found { addresses: addresses.to_vec(), ttl };
    names.learn(name, Answer { v4, v6: Family::Nothing { ttl } });
}

fn local(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

fn turns(addresses: &Addresses, count: usize) -> HashMap<IpAddr, usize> {
    let mut turns = HashMap::new();
    for _ in 0..count {
        *turns.entry(addresses.next(Instant::now()).expect("an address").ip()).or_default() += 1;
        addresses.advance();
    }
    turns
}

#[tokio::test]
async fn requests_are_spread_evenly_and_an_address_that_failed_gets_none_for_a_while() {
    tokio::time::pause();
    let (names, _) = names(&[local(1), local(2), local(3)]);
    let addresses = Addresses::new(HOST, 80, &names);
    assert_eq!(turns(&addresses, 300), [1, 2, 3].map(|last| (local(last), 100)).into());
    addresses.penalise(SocketAddr::new(local(2), 80), Instant::now());
    assert_eq!(turns(&addresses, 300), [1, 3].map(|last| (local(last), 150)).into());
    assert_eq!(addresses.order(Instant::now()).last(), Some(&SocketAddr::new(local(2), 80)));
    tokio::time::advance(PENALTY).await;
    assert_eq!(turns(&addresses, 300).len(), 3);
    addresses.penalise(SocketAddr::new(local(2), 80), Instant::now());
    tokio::time::advance(PENALTY).await;
    assert_eq!(turns(&addresses, 300).len(), 2, "the second time is longer");
    for last in [1, 2, 3] {
        addresses.penalise(SocketAddr::new(local(last), 80), Instant::now());
    }
    assert_eq!(turns(&addresses, 300).len(), 3, "all have failed, so all are tried");
}

#[tokio::test]
async fn a_connection_goes_where_the_name_leads_now() {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    // Nobody listens on that port of the other address, so that one refuses.
    let (names, name) = names(&[local(2), local(3)]);
    let addresses = Addresses::new(HOST, port, &names);
    for _ in 0..4 {
        let (_, address) = addresses.connect().await.expect("the other one takes it");
        assert_eq!(address, SocketAddr::new(local(2), port));
    }
    assert_eq!(turns(&addresses, 10), [(local(2), 10)].into(), "the one that refused comes last from now on");
    assert!(addresses.is_current(SocketAddr::new(local(2), port)));
    teach(&names, &name, &[local(3)]);
    assert!(!addresses.is_current(SocketAddr::new(local(2), port)));
    let error = addresses.connect().await.expect_err("nobody listens");
    assert!(matches!(error, ConnectError::Io(_)), "{error:?}");
}

#[tokio::test]
async fn an_address_that_does_not_answer_delays_by_its_head_start_once() {
    // A queue that is full takes no more: a connection to it neither succeeds nor fails.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).expect("binds");
    let deaf = socket.listen(0).expect("listens");
    let port = deaf.local_addr().expect("an address").port();
    let mut queue = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(100), TcpStream::connect((local(2), port))).await {
        queue.push(stream.expect("connects"));
    }
    let listener = TcpListener::bind((local(3), port)).await.expect("binds");
    let (names, _) = names(&[local(2), local(3)]);
    let addresses = Addresses::new(HOST, port, &names);
    addresses.turn.set(0);
    let begun = Instant::now();
    assert_eq!(addresses.connect().await.expect("the other one").1.ip(), local(3));
    assert!(begun.elapsed() >= HEAD_START);
    for _ in 0..4 {
        assert_eq!(addresses.connect().await.expect("the other one").1.ip(), local(3));
    }
    assert_eq!(turns(&addresses, 10), [(local(3), 10)].into());
    drop(listener);
}

#[tokio::test(start_paused = true)]
async fn a_name_without_an_answer_yet_is_waited_for_a_moment_and_one_without_addresses_is_not() {
    let (names, name) = (Arc::new(Names::default()), Arc::new(Name::new(HOST)));
    names.insert(&[Arc::clone(&name)]);
    let addresses = Addresses::new(HOST, 9, &names);
    let begun = Instant::now();
    assert!(matches!(addresses.connect().await, Err(ConnectError::NoAddress)));
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(1) && waited <= Duration::from_secs(3), "{waited:?}");
    let ttl = Duration::from_secs(60);
    names.learn(&name, Answer { v4: Family::Nothing { ttl }, v6: Family::Nothing { ttl } });
    let begun = Instant::now();
    assert!(matches!(addresses.connect().await, Err(ConnectError::NoAddress)));
    assert!(matches!(Addresses::new("other.test", 9, &names).connect().await, Err(ConnectError::NoAddress)));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_name_that_went_and_came_back_is_found_again() {
    let (names, name) = names(&[local(1)]);
    let addresses = Addresses::new(HOST, 80, &names);
    assert_eq!(turns(&addresses, 1), [(local(1), 1)].into());
    names.remove(&[name]);
    assert_eq!(turns(&addresses, 1), [(local(1), 1)].into(), "what was known last stays");
    let again = Arc::new(Name::new(HOST));
    names.insert(&[Arc::clone(&again)]);
    teach(&names, &again, &[local(2)]);
    assert_eq!(turns(&addresses, 1), [(local(2), 1)].into());
}

#[tokio::test]
async fn an_address_is_its_own_name() {
    for (host, expected) in [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80")] {
        let addresses = Addresses::new(host, 80, &Arc::default());
        assert_eq!(addresses.next(Instant::now()), expected.parse().ok());
    }
}
