//! Configuration number N, for any N.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use super::secure::Secure;
use crate::harness::free_port;

/// Routes that have nothing to do with the traffic, some of them new at each apply.
const BYSTANDERS: u64 = 60;

/// What stays the same over all configurations.
#[derive(Clone, Debug)]
pub struct Shape {
    pub upstreams: [SocketAddr; 2],
    pub listeners: Option<Listeners>,
    pub secure: Option<Arc<Secure>>,
}

/// Addresses of listeners. One is always there, under changing names; the others come and go.
#[derive(Clone, Copy, Debug)]
pub struct Listeners {
    pub steady: SocketAddr,
    /// Here for ten configurations, away for ten.
    pub slow: SocketAddr,
    /// Here for two configurations, away for one.
    pub fast: SocketAddr,
}

impl Listeners {
    pub fn free() -> Self {
        let free = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        Self { steady: free(), slow: free(), fast: free() }
    }

    /// Whether configuration N has the slow one.
    pub fn has_slow(number: u64) -> bool {
        number % 20 < 10
    }

    /// Whether configuration N has the fast one.
    pub fn has_fast(number: u64) -> bool {
        number % 3 < 2
    }
}

impl Shape {
    /// Configuration N.
    pub fn manifest(&self, number: u64) -> String {
        let mut yaml = String::new();
        self.listeners(number, &mut yaml);
        match &self.secure {
            None => self.backends(number, &mut yaml),
            Some(secure) => secure.write(number, self.upstreams, &mut yaml),
        }
        plugins(number, &mut yaml);
        self.routes(number, &mut yaml);
        yaml
    }

    fn listeners(&self, number: u64, yaml: &mut String) {
        let Some(Listeners { steady, slow, fast }) = self.listeners else { return };
        let name = ["web", "front", "door"][usize::try_from(number / 4 % 3).expect("small")];
        let _ = write!(yaml, "listeners:\n- {{name: {name}, address: \"{steady}\"}}\n");
        if Listeners::has_slow(number) {
            let _ = writeln!(yaml, "- {{name: slow, address: \"{slow}\"}}");
        }
        if Listeners::has_fast(number) {
            let _ = writeln!(yaml, "- {{name: fast, address: \"{fast}\"}}");
        }
    }

    /// Two backends; which of the servers they have, and how much each weighs, changes all the time.
    fn backends(&self, number: u64, yaml: &mut String) {
        let [one, two] = self.upstreams;
        let policy = if number.is_multiple_of(5) { "least_request" } else { "round_robin" };
        let _ = write!(yaml, "backends:\n- name: service\n  load_balancing: {{policy: {policy}}}\n  endpoints:\n");
        if !number.is_multiple_of(3) {
            let _ = writeln!(yaml, "  - {{url: \"http://{one}/by-{number}\", weight: {}}}", 1 + number % 4);
        }
        if number % 3 != 1 {
            let _ = writeln!(yaml, "  - {{url: \"http://{two}/by-{number}\", weight: 2}}");
        }
        let _ = write!(yaml, "- name: canary\n  endpoints: [{{url: \"http://{two}/by-{number}\"}}]\n");
    }

    fn routes(&self, number: u64, yaml: &mut String) {
        let targets = match number % 3 {
            0 => "service".to_owned(),
            odd => format!("[{{name: service, weight: {}}}, {{name: canary, weight: 10}}]", odd * 40),
        };
        // Under whatever names the listeners have, a connection that came in by one is one of it.
        let bound = match self.secure {
            Some(_) => format!("listeners: [{}], ", Secure::listeners(number).join(", ")),
            None => String::new(),
        };
        let _ = write!(
            yaml,
            "routes:
- {{name: service, {bound}path: /service, backend: {targets}, plugins: [mark-request, mark-answer]}}
- {{name: local, {bound}path: /local, backend: service, plugins: [say]}}
"
        );
        if self.secure.is_some() {
            let _ = writeln!(
                yaml,
                "- {{name: calls, {bound}path: /torture.Echo, strip_prefix: false, backend: {targets}, \
                 plugins: [mark-request, mark-answer]}}"
            );
        }
        // A more exact match for some of the same requests comes and goes.
        if number.is_multiple_of(2) {
            let _ = writeln!(
                yaml,
                "- {{name: special, {bound}path: /service/echo, backend: canary, strip_prefix: true, \
                 plugins: [mark-request, mark-answer, rewrite-mark]}}"
            );
        }
        let one = self.upstreams[0];
        for bystander in 0..BYSTANDERS {
            // A third are new each time, a third change, a third stay.
            let (name, path) = match bystander % 3 {
                0 => (format!("new-{number}-{bystander}"), format!("/by/{number}/{bystander}")),
                1 => (format!("changing-{bystander}"), format!("/by/{number}/{bystander}")),
                _ => (format!("same-{bystander}"), format!("/same/{bystander}")),
            };
            let host = format!("host-{}.example.com", bystander % 7);
            let _ = writeln!(yaml, "- {{name: {name}, hosts: [{host}], path: {path}, backend: \"http://{one}\"}}");
        }
    }
}

fn plugins(number: u64, yaml: &mut String) {
    let _ = write!(
        yaml,
        "plugins:
- {{name: mark-request, type: headers, config: {{request: {{set: {{x-asked-by: \"{number}\"}}}}}}}}
- {{name: mark-answer, type: headers, config: {{response: {{set: {{x-answered-by: \"{number}\"}}}}}}}}
- {{name: say, type: respond, config: {{body: \"said by {number}\", headers: {{x-answered-by: \"{number}\"}}}}}}
"
    );
    if number.is_multiple_of(2) {
        let _ = writeln!(
            yaml,
            "- {{name: rewrite-mark, type: headers, config: {{response: {{set: {{x-special: \"{number}\"}}}}}}}}"
        );
    }
}
