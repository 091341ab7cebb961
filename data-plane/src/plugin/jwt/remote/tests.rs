use std::{cell::Cell, future::pending, rc::Rc};

use super::*;
use crate::plugin::jwt::keys::SetError;

const REFRESH: Duration = Duration::from_secs(300);

fn set(kids: &[&str]) -> Published {
    let key = |kid: &&str| {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        serde_json::json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x})
    };
    let keys: Vec<_> = kids.iter().map(key).collect();
    KeySet::from_json(serde_json::json!({"keys": keys}).to_string().as_bytes()).expect("keys")
}

/// A server of keys, and what it does at the moment.
#[derive(Default)]
struct Server {
    fetches: Cell<u32>,
    /// At the same moment, and the most of them ever.
    under_way: Cell<u32>,
    most: Cell<u32>,
    kids: Cell<&'static [&'static str]>,
    takes: Cell<Duration>,
}

impl Server {
    async fn fetch(self: Rc<Self>) -> Result<Published, FetchError> {
        self.fetches.set(self.fetches.get() + 1);
        self.under_way.set(self.under_way.get() + 1);
        self.most.set(self.most.get().max(self.under_way.get()));
        tokio::time::sleep(self.takes.get()).await;
        self.under_way.set(self.under_way.get() - 1);
        match self.kids.get() {
            [] => Err(SetError::Empty.into()),
            kids => Ok(set(kids)),
        }
    }
}

/// The task that fetches from a server.
async fn keep(remote: &Remote, server: &Rc<Server>) {
    remote.keep("test", REFRESH, || Rc::clone(server).fetch()).await;
}

/// What happens within a time while the task is at work.
async fn during(remote: &Remote, server: &Rc<Server>, time: Duration) {
    let _ = tokio::time::timeout(time, keep(remote, server)).await;
}

fn has(remote: &Remote, kid: &str) -> bool {
    let known = remote.known();
    known.as_ref().is_some_and(|known| known.is_good(Instant::now()) && known.keys.has(Some(kid)))
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_at_once_and_at_every_interval_and_those_that_are_gone_are_gone() {
    let (remote, server) = (Remote::default(), Rc::new(Server::default()));
    server.kids.set(&["a"]);
    let script = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(has(&remote, "a") && server.fetches.get() == 1);
        server.kids.set(&["b"]);
        let generation = remote.known().as_ref().map(|known| known.keys.generation);
        tokio::time::sleep(REFRESH).await;
        assert!(has(&remote, "b") && !has(&remote, "a") && server.fetches.get() == 2);
        assert_ne!(generation, remote.known().as_ref().map(|known| known.keys.generation));
    };
    tokio::select! {
        () = keep(&remote, &server) => {}
        () = script => {}
    }
    assert_eq!(remote.fetches(), [2, 0]);
}

#[tokio::test(start_paused = true)]
async fn while_the_server_is_gone_the_last_keys_are_good_for_a_day_and_it_is_asked_ever_more_rarely() {
    let (remote, server) = (Remote::default(), Rc::new(Server::default()));
    server.kids.set(&["a"]);
    during(&remote, &server, Duration::from_secs(1)).await;
    server.kids.set(&[]);
    let hour = Duration::from_secs(3600);
    during(&remote, &server, hour).await;
    assert!(has(&remote, "a"));
    // From 1 s to 5 min, each halved at most: 18 steps of doubling, and one in at least 150 s.
    let asked = server.fetches.get();
    assert!((12..=45).contains(&asked), "{asked}");
    during(&remote, &server, 22 * hour).await;
    assert!(has(&remote, "a"));
    during(&remote, &server, hour).await;
    assert!(!has(&remote, "a"), "a day is over");
    server.kids.set(&["b"]);
    during(&remote, &server, REFRESH).await;
    assert!(has(&remote, "b"), "it is back");
}

#[tokio::test(start_paused = true)]
async fn whatever_tokens_say_there_is_one_fetch_at_a_time_and_one_in_ten_seconds() {
    let (remote, server) = (Remote::default(), Rc::new(Server::default()));
    server.kids.set(&["a"]);
    server.takes.set(Duration::from_secs(2));
    let waited = Cell::new(0);
    let requests = async {
        for _ in 0..60_000 {
            if let Some(mut ended) = remote.flight(Instant::now()) {
                waited.set(waited.get() + 1);
                // As a request that nobody waits for any more.
                let _ = tokio::time::timeout(Duration::from_millis(1), ended.changed()).await;
            } else {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    tokio::select! {
        () = keep(&remote, &server) => {}
        () = requests => {}
    }
    // Each takes 2 s of 12.
    assert_eq!((server.fetches.get(), server.most.get()), (5, 1));
    assert!((9_000..=11_000).contains(&waited.get()), "{}", waited.get());
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_for_a_key_are_told_by_the_same_fetch() {
    let (remote, server) = (Remote::default(), Rc::new(Server::default()));
    server.kids.set(&["a"]);
    server.takes.set(Duration::from_secs(1));
    let request = async || {
        let mut ended = remote.flight(Instant::now()).expect("a fetch");
        ended.changed().await.expect("the sender is there");
        has(&remote, "b")
    };
    let script = async {
        assert!(!request().await, "the first fetch, which was to come in any case");
        assert!(remote.flight(Instant::now()).is_none(), "no other so soon");
        tokio::time::sleep(ASK_PAUSE).await;
        server.kids.set(&["a", "b"]);
        assert_eq!(tokio::join!(request(), request(), request()), (true, true, true));
    };
    tokio::select! {
        () = keep(&remote, &server) => {}
        () = script => {}
    }
    assert_eq!(server.fetches.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_fetch_that_is_given_up_is_told_and_keys_from_before_are_not_fetched_anew() {
    let remote = Remote::default();
    let ended = remote.flight(Instant::now()).expect("the first");
    let hanging = remote.keep("test", REFRESH, pending::<Result<Published, FetchError>>);
    assert!(tokio::time::timeout(Duration::from_secs(1), hanging).await.is_err());
    assert!(ended.has_changed().expect("the sender is there"));
    assert!(remote.flight(Instant::now()).is_none());
    let server = Rc::new(Server::default());
    server.kids.set(&["a"]);
    during(&remote, &server, Duration::from_secs(1)).await;
    for _ in 0..3 {
        during(&remote, &server, Duration::from_secs(1)).await;
        assert!(remote.flight(Instant::now()).is_none(), "none is under way");
    }
    assert_eq!(server.fetches.get(), 1);
}
