//! Counts that all proxies share, in Redis or Valkey.
//!
//! Each worker has a connection of its own, on which the questions of all its requests are pipelined; one script
//! decides each, in one step, by the clock of Redis. A request waits for an answer as long as it is told to, and no other
//! request waits behind one that failed: the first failure takes the link down, and while it is down nobody asks. A
//! task of the worker makes a new connection meanwhile; the link is up again when that has taken the script.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, RedisConnectionInfo, RedisError, ServerErrorKind, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Verdict, WINDOWS_MAX};
use crate::{stream::Stream, tls::client::EndpointTls};

/// How long a new connection may take to be of use.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a connection is asked whether it is alive, and how long it may think about that.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// The pause after the first failure in a row; the next are twice as long each.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// The longest pause between two tries to connect.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The most questions that wait to be written.
const PIPELINE_MAX: usize = 1000;

/// Takes one request from each window of a key, if every one has it. For each window: what a request is worth, and what
/// a burst is, in microseconds. The value is, for each window, when the whole burst is there again.
const SCRIPT: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local tats, used, allowed, last = {}, {}, 1, 0
for tat in string.gmatch(redis.call('GET', KEYS[1]) or '', '%d+') do
  tats[#tats + 1] = tonumber(tat)
end
for i = 1, #ARGV / 2 do
  local interval, span = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  used[i] = math.min(math.max((tats[i] or 0) - now, 0), span)
  if used[i] + interval > span then
    allowed = 0
  end
end
if allowed == 1 then
  for i = 1, #used do
    used[i] = used[i] + tonumber(ARGV[2 * i - 1])
    tats[i] = string.format('%.0f', now + used[i])
    last = math.max(last, used[i])
  end
  redis.call('SET', KEYS[1], table.concat(tats, ' ', 1, #used), 'PX', math.ceil(last / 1000))
end
return {allowed, unpack(used)}
";

/// Where a Redis is, and what it wants to know of who asks.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub host: String,
    pub port: u16,
    pub database: u16,
    pub username: Option<String>,
    pub password: Option<String>,
    /// `None` if it is spoken to in the clear.
    pub tls: Option<EndpointTls>,
}

impl fmt::Debug for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        write!(formatter, "{scheme}://{}:{}/{}", self.host, self.port, self.database)
    }
}

impl Target {
    /// Reads `redis://HOST:PORT/DATABASE`, and whether it is to be over TLS.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn parse(url: &str) -> Result<(Self, bool), (&'static str, &'static str)> {
        const HINT: &str = "write it like redis://10.0.0.5:6379 or redis://cache.internal/2";
        let Some((scheme, rest)) = url.split_once("://") else { return Err(("this is no URL", HINT)) };
        let is_secure = match scheme {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err(("this is no URL of a Redis", HINT)),
        };
        if rest.contains('@') {
            return Err(("there is a user or a password in the URL", "give them as \"username\" and \"password\""));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let database = if path.is_empty() { Some(0) } else { path.parse().ok() };
        let Some(database) = database else { return Err(("the path is no number of a database", HINT)) };
        let Ok(host) = crate::canonical::host(authority.as_bytes()) else { return Err(("the host is none", HINT)) };
        let name = host.name.trim_matches(['[', ']']).to_owned();
        if name.is_empty() {
            return Err(("there is no host", HINT));
        }
        let (port, username, password, tls) = (host.port.unwrap_or(6379), None, None, None);
        Ok((Self { host: name, port, database, username, password, tls }, is_secure))
    }
}

/// One worker's link to a Redis; the task that keeps it ends with this.
#[derive(Debug)]
pub(super) struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    target: Target,
    link: Mutex<Link>,
    /// The link is another.
    changed: Notify,
    /// The link went down.
    failed: Notify,
    gone: CancellationToken,
}

#[derive(Clone, Debug)]
enum Link {
    /// The first try is under way.
    Fresh,
    Up(Up),
    Down,
}

#[derive(Clone, Debug)]
struct Up {
    connection: MultiplexedConnection,
    /// As Redis calls the script.
    script: Arc<str>,
    /// Which connection this is.
    generation: u64,
}

/// Redis did not decide.
#[derive(Debug)]
pub(super) struct Unavailable;

impl Drop for Store {
    fn drop(&mut self) {
        self.inner.gone.cancel();
    }
}

impl Store {
    /// Begins to connect, in a task of this runtime.
    pub fn start(target: Target) -> Self {
        let inner = Arc::new(Inner {
            target,
            link: Mutex::new(Link::Fresh),
            changed: Notify::new(),
            failed: Notify::new(),
            gone: CancellationToken::new(),
        });
        let kept = Arc::clone(&inner);
        tokio::spawn(async move {
            let gone = kept.gone.clone();
            gone.run_until_cancelled(kept.keep()).await;
        });
        Self { inner }
    }

    /// Takes one request from the windows of a key, if every one has it; `terms` are what the script wants to know.
    pub async fn take(&self, key: &str, terms: &[(u64, u64)], patience: Duration) -> Result<Verdict, Unavailable> {
        let begun = Instant::now();
        let up = match timeout(patience, self.inner.up()).await {
            Ok(Some(up)) => up,
            Ok(None) | Err(_) => return Err(Unavailable),
        };
        let left = patience.saturating_sub(begun.elapsed());
        let problem = match timeout(left, decide(&mut up.connection.clone(), &up.script, key, terms)).await {
            Ok(Ok(verdict)) => return Ok(verdict),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {patience:?}"),
        };
        self.inner.fail(up.generation, &problem);
        Err(Unavailable)
    }
}

impl Inner {
    /// The link that is up; waits for the very first one.
    async fn up(&self) -> Option<Up> {
        loop {
            let changed = self.changed.notified();
            match self.link() {
                Link::Up(up) => return Some(up),
                Link::Down => return None,
                Link::Fresh => changed.await,
            }
        }
    }

    fn link(&self) -> Link {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the link down, if it is still this one.
    fn fail(&self, generation: u64, problem: &str) {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*link, Link::Up(up) if up.generation == generation) {
            *link = Link::Down;
            drop(link);
            tracing::warn!(redis = ?self.target, problem, "rate limits are not shared: Redis does not answer");
            self.failed.notify_one();
        }
    }

    /// Connects, and connects again whenever the link is down.
    async fn keep(self: Arc<Self>) {
        let mut pause = Duration::ZERO;
        for generation in 0.. {
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            let connected = timeout(CONNECT_TIMEOUT, self.connect(generation)).await;
            let problem = match connected {
                Ok(Ok(up)) => {
                    let mut connection = up.connection.clone();
                    self.change(Link::Up(up));
                    tracing::info!(redis = ?self.target, "rate limits are shared");
                    let since = Instant::now();
                    self.watch(generation, &mut connection).await;
                    if since.elapsed() > PAUSE_MAX {
                        pause = Duration::ZERO;
                    }
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no connection within {CONNECT_TIMEOUT:?}"),
            };
            if matches!(self.link(), Link::Fresh) {
                tracing::warn!(redis = ?self.target, problem, "rate limits are not shared: Redis cannot be reached");
            }
            self.change(Link::Down);
        }
    }

    fn change(&self, link: Link) {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
        self.changed.notify_waiters();
    }

    /// A connection that has the script.
    async fn connect(self: &Arc<Self>, generation: u64) -> Result<Up, RedisError> {
        let Target { host, port, database, username, password, tls } = &self.target;
        let tcp = TcpStream::connect((host.as_str(), *port)).await?;
        tcp.set_nodelay(true)?;
        let stream = match tls {
            None => Stream::from(tcp),
            Some(tls) => tls.connect(tcp, Some(&[])).await?,
        };
        let mut info = RedisConnectionInfo::default().set_db((*database).into()).set_skip_set_lib_name();
        if let Some(username) = username {
            info = info.set_username(username);
        }
        if let Some(password) = password {
            info = info.set_password(password);
        }
        // Who asks knows how long it waits.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(PIPELINE_MAX);
        let (mut connection, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
        let inner = Arc::downgrade(self);
        // It ends when the connection does, or when nobody has it any more.
        tokio::spawn(async move {
            driver.await;
            if let Some(inner) = inner.upgrade() {
                inner.fail(generation, "the connection was closed");
            }
        });
        let loaded = send(&mut connection, Cmd::new().arg("SCRIPT").arg("LOAD").arg(SCRIPT)).await?;
        let script = match loaded {
            Value::BulkString(name) => String::from_utf8(name).unwrap_or_default(),
            Value::SimpleString(name) => name,
            _ => return Err(unexpected()),
        };
        Ok(Up { connection, script: script.into(), generation })
    }

    /// Returns when the link is down.
    async fn watch(&self, generation: u64, connection: &mut MultiplexedConnection) {
        loop {
            if timeout(PING_INTERVAL, self.failed.notified()).await.is_err() {
                match timeout(PING_INTERVAL, send(connection, Cmd::new().arg("PING"))).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => self.fail(generation, &error.to_string()),
                    Err(_) => self.fail(generation, "no answer to a ping"),
                }
            }
            if !matches!(self.link(), Link::Up(_)) {
                return;
            }
        }
    }
}

/// Asks the script; if Redis has lost it, with the whole of it.
async fn decide(
    connection: &mut MultiplexedConnection,
    script: &str,
    key: &str,
    terms: &[(u64, u64)],
) -> Result<Verdict, RedisError> {
    let ask = |command: &str, script: &str| {
        let mut ask = Cmd::new();
        ask.arg(command).arg(script).arg(1).arg(key);
        for (interval, span) in terms {
            ask.arg(*interval).arg(*span);
        }
        ask
    };
    let answer = match send(connection, &ask("EVALSHA", script)).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            send(connection, &ask("EVAL", SCRIPT)).await?
        }
        answer => answer?,
    };
    verdict(&answer).ok_or_else(unexpected)
}

/// The answer to a command; the errors of Redis are errors.
async fn send(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, RedisError> {
    connection.send_packed_command(command).await?.extract_error()
}

fn verdict(answer: &Value) -> Option<Verdict> {
    let Value::Array(numbers) = answer else { return None };
    let mut numbers = numbers.iter().map(|number| match number {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    });
    let allowed = numbers.next()?? == 1;
    let mut used = [0; WINDOWS_MAX];
    for (used, number) in used.iter_mut().zip(numbers) {
        *used = number?.saturating_mul(1000);
    }
    Some(Verdict { allowed, used })
}

fn unexpected() -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, "this is no answer of the script"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_and_nothing_secret() {
        let read = |url: &str| Target::parse(url).map(|(target, is_secure)| (format!("{target:?}"), is_secure));
        let is = |target: &str, is_secure| Ok((target.to_owned(), is_secure));
        assert_eq!(read("redis://10.0.0.5"), is("redis://10.0.0.5:6379/0", false));
        assert_eq!(read("valkey://cache.internal:7000/2"), is("redis://cache.internal:7000/2", false));
        assert_eq!(read("redis://[::1]:7000/"), is("redis://::1:7000/0", false));
        assert_eq!(read("rediss://a"), is("redis://a:6379/0", true));
        for url in [
            "",
            "10.0.0.5:6379",
            "http://a",
            "redis://",
            "redis://u:p@a",
            "redis://a/x",
            "redis://a:99999",
            "redis://a b",
        ] {
            assert!(read(url).is_err(), "{url}");
        }
    }

    #[test]
    fn what_is_no_answer_of_the_script_is_none() {
        let numbers = |numbers: &[i64]| Value::Array(numbers.iter().copied().map(Value::Int).collect());
        assert_eq!(verdict(&numbers(&[1, 5])), Some(Verdict { allowed: true, used: [5000, 0, 0, 0] }));
        assert_eq!(
            verdict(&numbers(&[0, 1, 2, 3, 4, 5])),
            Some(Verdict { allowed: false, used: [1000, 2000, 3000, 4000] })
        );
        for answer in [Value::Nil, Value::Okay, numbers(&[]), numbers(&[1, -1]), Value::Array(vec![Value::Nil])] {
            assert_eq!(verdict(&answer), None, "{answer:?}");
        }
    }
}
