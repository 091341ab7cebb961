//! One question for a name's addresses: the hosts file, then the servers, with the search list of the system.
//!
//! hickory speaks the protocol; what is asked in which order is decided here, so that the two kinds of addresses
//! always come from the same full name, and so that a kind that failed is told apart from a kind that there is not.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
    system_conf::read_system_conf,
};
use tokio::time::{Instant, timeout};

use super::{Answer, Family};

/// How long a server has for an answer before it, or another one, is asked again.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a server is asked again.
const ATTEMPTS: usize = 2;

/// For all of one question.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// When one kind of address is there, how long the other may still take.
const OTHER_FAMILY_TIMEOUT: Duration = Duration::from_millis(300);

/// The most full names that are tried for one that is not.
const CANDIDATES_MAX: usize = 8;

/// How often the system's files are looked at for a change, and how long an entry of the hosts file is kept.
const FILES_FRESH: Duration = Duration::from_secs(5);

/// How long a name of which there is nothing is kept, when its zone does not say.
const NOTHING_TTL: Duration = Duration::from_secs(5);

/// Where the system says whom to ask.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// See the module documentation.
#[derive(Debug)]
pub struct Lookup {
    /// As set; empty means the system's.
    servers: Vec<SocketAddr>,
    /// Never held over a question.
    present: Mutex<Option<Present>>,
}

/// The files as they were read last.
#[derive(Clone, Debug)]
struct Present {
    client: Arc<Client>,
    changed: [Option<SystemTime>; 2],
    looked: Instant,
}

#[derive(Debug)]
struct Client {
    resolver: TokioResolver,
    hosts: Hosts,
    search: Vec<Name>,
    dots: usize,
}

impl Lookup {
    /// Asks these servers, or, if there are none, those that /etc/resolv.conf names. /etc/hosts goes before either.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, present: Mutex::default() }
    }

    /// What there is of a name.
    pub(super) async fn ask(&self, host: &str) -> Answer {
        let asked = async {
            match self.client() {
                Ok(client) => client.ask(host).await,
                Err(error) => Answer::failed(&error.to_string()),
            }
        };
        timeout(QUESTION_TIMEOUT, asked).await.unwrap_or_else(|_| Answer::failed("no answer in time"))
    }

    /// By the files as they are now: whoever changes them need not restart anything.
    fn client(&self) -> Result<Arc<Client>, NetError> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(present) = present.as_mut() {
            if now.duration_since(present.looked) < FILES_FRESH {
                return Ok(Arc::clone(&present.client));
            }
            present.looked = now;
            if present.changed == changes() {
                return Ok(Arc::clone(&present.client));
            }
        }
        let changed = changes();
        let client = Arc::new(Client::new(&self.servers)?);
        *present = Some(Present { client: Arc::clone(&client), changed, looked: now });
        Ok(client)
    }
}

fn changes() -> [Option<SystemTime>; 2] {
    FILES.map(|file| fs::metadata(file).and_then(|data| data.modified()).ok())
}

impl Client {
    fn new(servers: &[SocketAddr]) -> Result<Self, NetError> {
        let (config, mut options) = if servers.is_empty() {
            // Without a file the system's own resolver asks this machine.
            read_system_conf().unwrap_or_else(|_| {
                let this_machine = vec![name_server(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)))];
                (ResolverConfig::from_parts(None, Vec::new(), this_machine), ResolverOpts::default())
            })
        } else {
            let servers = servers.iter().map(|&server| name_server(server)).collect();
            (ResolverConfig::from_parts(None, Vec::new(), servers), ResolverOpts::default())
        };
        options.timeout = options.timeout.min(SERVER_TIMEOUT);
        options.attempts = options.attempts.min(ATTEMPTS);
        // Whatever is kept is kept by us.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.try_tcp_on_error = true;
        let (search, dots) = (config.search().to_vec(), options.ndots);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        Ok(Self { resolver: builder.build()?, hosts: Hosts::from_system().unwrap_or_default(), search, dots })
    }

    async fn ask(&self, host: &str) -> Answer {
        let candidates = match candidates(host, &self.search, self.dots) {
            Ok(candidates) => candidates,
            Err(error) => return Answer::failed(&error.to_string()),
        };
        let (mut failed, mut nothing) = (None, None);
        for name in candidates {
            let answer = match self.in_hosts(&name) {
                Some(answer) => answer,
                None => self.both(&name).await,
            };
            if answer.is_found() {
                return answer;
            }
            match answer.trouble() {
                Some(_) => failed = Some(answer),
                None => nothing = Some(answer),
            }
        }
        failed.or(nothing).unwrap_or_else(|| Answer::failed("the name is empty"))
    }

    fn in_hosts(&self, name: &Name) -> Option<Answer> {
        let family = |kind: RecordType| match self.hosts.lookup_static_host(&Query::query(name.clone(), kind)) {
            Some(lookup) => found(lookup.answers().iter().filter_map(|record| record.data.ip_addr()), FILES_FRESH),
            None => Family::Nothing { ttl: FILES_FRESH },
        };
        let answer = Answer { v4: family(RecordType::A), v6: family(RecordType::AAAA) };
        answer.is_found().then_some(answer)
    }

    /// Both kinds at once. Some servers never answer for AAAA: what has come does not wait for that.
    async fn both(&self, name: &Name) -> Answer {
        let mut v4 = std::pin::pin!(self.family(name, RecordType::A));
        let mut v6 = std::pin::pin!(self.family(name, RecordType::AAAA));
        let late = || Family::Failed { error: "no answer in time".to_owned() };
        tokio::select! {
            v4 = &mut v4 => {
                let v6 = if is_found(&v4) { timeout(OTHER_FAMILY_TIMEOUT, v6).await } else { Ok(v6.await) };
                Answer { v4, v6: v6.unwrap_or_else(|_| late()) }
            }
            v6 = &mut v6 => {
                let v4 = if is_found(&v6) { timeout(OTHER_FAMILY_TIMEOUT, v4).await } else { Ok(v4.await) };
                Answer { v4: v4.unwrap_or_else(|_| late()), v6 }
            }
        }
    }

    async fn family(&self, name: &Name, kind: RecordType) -> Family {
        match self.resolver.lookup(name.clone(), kind).await {
            Ok(lookup) => {
                let ttl = lookup.valid_until().saturating_duration_since(Instant::now().into_std());
                let of_kind = lookup.answers().iter().filter(|record| record.record_type() == kind);
                found(of_kind.filter_map(|record| record.data.ip_addr()), ttl)
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { negative_ttl, .. }))) => {
                let ttl = negative_ttl.map_or(NOTHING_TTL, |seconds| Duration::from_secs(seconds.into()));
                Family::Nothing { ttl }
            }
            Err(error) => Family::Failed { error: error.to_string() },
        }
    }
}

/// Addresses that a connection can be made to: "any" and groups of hosts are none.
fn found(addresses: impl Iterator<Item = IpAddr>, ttl: Duration) -> Family {
    let addresses: Vec<_> = addresses.filter(|address| !address.is_unspecified() && !address.is_multicast()).collect();
    if addresses.is_empty() { Family::Nothing { ttl: NOTHING_TTL } } else { Family::Found { addresses, ttl } }
}

fn is_found(family: &Family) -> bool {
    matches!(family, Family::Found { .. })
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

/// The full names that a name may mean, in the order in which they are asked for: with enough dots in it, itself
/// first, otherwise last (resolv.conf(5), `ndots`).
fn candidates(host: &str, search: &[Name], dots: usize) -> Result<Vec<Name>, NetError> {
    let mut name = Name::from_ascii(host)?;
    let full = name.is_fqdn();
    name.set_fqdn(true);
    if full || search.is_empty() || host == "localhost" {
        return Ok(vec![name]);
    }
    let itself_first = host.matches('.').count() >= dots;
    let mut relative = name.clone();
    relative.set_fqdn(false);
    let searched = search.iter().filter_map(|domain| relative.clone().append_domain(domain).ok());
    let mut candidates: Vec<_> = searched.take(CANDIDATES_MAX - 1).collect();
    for candidate in &mut candidates {
        candidate.set_fqdn(true);
    }
    candidates.insert(if itself_first { 0 } else { candidates.len() }, name);
    Ok(candidates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_few_dots_is_searched_for_first() {
        let search = ["a.test.", "b.test."].map(|domain| Name::from_ascii(domain).expect("a name"));
        let names = |host: &str, dots: usize| -> Vec<String> {
            candidates(host, &search, dots).expect("a name").iter().map(Name::to_ascii).collect()
        };
        assert_eq!(names("web", 1), ["web.a.test.", "web.b.test.", "web."]);
        assert_eq!(names("web.prod", 1), ["web.prod.", "web.prod.a.test.", "web.prod.b.test."]);
        assert_eq!(names("web.prod", 5), ["web.prod.a.test.", "web.prod.b.test.", "web.prod."]);
        assert_eq!(names("web.", 5), ["web."]);
        assert_eq!(names("localhost", 5), ["localhost."]);
        let many = vec![search[0].clone(); 100];
        assert_eq!(candidates("web", &many, 1).expect("a name").len(), CANDIDATES_MAX);
        assert!(candidates(&"x".repeat(64), &search, 1).is_err());
    }

    #[test]
    fn addresses_that_are_no_host_are_left_out() {
        let all = ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "10.0.0.1"].map(|text| text.parse().expect("an address"));
        let ttl = FILES_FRESH;
        let kept = Family::Found { addresses: vec![all[4]], ttl };
        assert_eq!(found(all.into_iter(), ttl), kept);
        assert!(!is_found(&found(all[..4].iter().copied(), ttl)));
    }
}
