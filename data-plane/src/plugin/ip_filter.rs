//! `ip_filter`: lets requests through by the client's address.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv6Addr},
};

use super::{
    Flow, PluginRequest, Reason, Refusal, Spec,
    config::Config,
    spec::{Key, Kind},
};
use crate::snapshot::fault::Faults;

/// The most blocks in one list.
const BLOCKS_MAX: usize = 10_000;

const BLOCKS: Kind = Kind::List(&Kind::Cidr, BLOCKS_MAX);

pub(super) static DENIED: Reason = Reason {
    name: "ip_denied",
    status: 403,
    detail: "requests from this address are not served",
    when: "The client's address is in `deny`, or `allow` is there and does not have it",
};

pub(super) static SPEC: Spec = Spec {
    name: "ip_filter",
    summary: "Lets requests through by the client's address.",
    details: "The address is the client's, as trusted proxies tell it (`--trusted-proxies`); what anybody else says of it \
counts for nothing. An address that is in `deny` is refused, whether `allow` has it or not.",
    keys: &[
        Key::new("allow", BLOCKS, "everybody", "Whoever is in none of these is refused"),
        Key::new("deny", BLOCKS, "nobody", "Whoever is in one of these is refused"),
    ],
    example: "allow: [10.0.0.0/8, \"2001:db8::/32\"]\ndeny: [10.1.2.3]",
    reasons: &[&DENIED],
};

#[derive(Debug)]
pub(super) struct IpFilter {
    /// `None` if everybody may.
    allow: Option<Blocks>,
    deny: Blocks,
}

/// Blocks of addresses: one look-up for each length that a prefix has.
#[derive(Debug, Default)]
struct Blocks(Vec<(u8, HashSet<u128>)>);

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> IpFilter {
    if !config.has("allow") && !config.has("deny") {
        config.fault_here("there is neither \"allow\" nor \"deny\"", "give at least one of them", faults);
    }
    let allow = config.has("allow").then(|| Blocks::new(config.blocks("allow")));
    IpFilter { allow, deny: Blocks::new(config.blocks("deny")) }
}

impl IpFilter {
    pub fn on_request(&self, request: &PluginRequest<'_>) -> Flow {
        let allowed = self.allow.as_ref().is_none_or(|allow| allow.contains(request.client));
        if allowed && !self.deny.contains(request.client) { Flow::Continue } else { Refusal::new(&DENIED).into() }
    }
}

impl Blocks {
    fn new(blocks: Vec<(IpAddr, u8)>) -> Self {
        let mut all = Self::default();
        for (address, bits) in blocks {
            let bits = if address.is_ipv4() { bits + 96 } else { bits };
            let block = mask(number(address), bits);
            match all.0.iter_mut().find(|(length, _)| *length == bits) {
                Some((_, blocks)) => drop(blocks.insert(block)),
                None => all.0.push((bits, HashSet::from([block]))),
            }
        }
        all
    }

    fn contains(&self, address: IpAddr) -> bool {
        let address = number(address);
        self.0.iter().any(|(bits, blocks)| blocks.contains(&mask(address, *bits)))
    }
}

/// One of IPv4 as the one of IPv6 that stands for it, where no other address is.
fn number(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => Ipv6Addr::into(address),
    }
}

fn mask(address: u128, bits: u8) -> u128 {
    let dropped = 128 - u32::from(bits.min(128));
    address.checked_shr(dropped).and_then(|high| high.checked_shl(dropped)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use crate::plugin::{rig::Rig, tests::fields_at_fault};

    async fn refusal(config: &str, client: &str) -> &'static str {
        let mut rig = Rig::new("ip_filter", config);
        rig.client = client.parse().expect("an address");
        rig.refusal().await
    }

    #[tokio::test]
    async fn addresses_are_let_through_by_the_longest_of_no_list_but_by_both() {
        let both = r#"{"allow": ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"], "deny": ["10.1.0.0/16", "10.2.3.4"]}"#;
        for (client, passes) in [
            ("10.0.0.1", true),
            ("10.255.255.255", true),
            ("10.1.9.9", false),
            ("10.2.3.4", false),
            ("10.2.3.5", true),
            ("11.0.0.0", false),
            ("192.0.2.7", true),
            ("192.0.2.6", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
            ("::ffff:10.0.0.1", true),
            ("::a00:1", false),
        ] {
            assert_eq!(refusal(both, client).await.is_empty(), passes, "{client}");
        }
        let deny = r#"{"deny": ["0.0.0.0/0"]}"#;
        assert_eq!((refusal(deny, "1.2.3.4").await, refusal(deny, "::1").await), ("ip_denied", ""));
        let all = r#"{"deny": ["::/0"]}"#;
        assert_eq!(refusal(all, "::1").await, "ip_denied");
        assert_eq!(refusal(r#"{"allow": []}"#, "1.2.3.4").await, "ip_denied", "nobody is in an empty list");
    }

    #[test]
    fn what_is_no_block_is_told() {
        let config = r#"{"allow": ["10.0.0.0/33", "x"], "deny": 1}"#;
        assert_eq!(fields_at_fault("ip_filter", config), ["config.allow[0]", "config.allow[1]", "config.deny"]);
        assert_eq!(fields_at_fault("ip_filter", "{}"), ["config"]);
    }
}
