//! `status`: each proxy, what it serves, how far behind it is, and what it refused.

use rustygate_proto::v1::{self as wire, endpoint_health::State};

use super::change;
use crate::{
    cli::{StatusArgs, TableFormat},
    client::Client,
    expiry,
    failure::{Exit, Failure},
    output::{Paint, Screen, Table, ago, faults_json, unix_ms_now},
};

/// Shows the fleet.
pub(crate) async fn run(screen: Screen, client: &Client, args: &StatusArgs) -> Result<Exit, Failure> {
    let fleet = client.proxies().await?;
    let kinds = vec![wire::Kind::Certificate.into()];
    let stored = client.get(wire::GetRequest { kinds, ..wire::GetRequest::default() }).await?.resources;
    let certificates: Vec<_> = stored.into_iter().filter_map(|stored| stored.resource).collect();
    match args.output {
        TableFormat::Json => {
            let proxies: serde_json::Value = fleet.proxies.iter().map(proxy_json).collect();
            let now_ms = unix_ms_now();
            let certificates: serde_json::Value =
                certificates.iter().filter_map(|certificate| certificate_json(certificate, now_ms)).collect();
            screen.json(&serde_json::json!({
                "head_revision": fleet.head_revision,
                "proxies": proxies,
                "certificates": certificates,
            }))?;
        }
        TableFormat::Table => {
            if fleet.proxies.is_empty() {
                screen.note("no proxy has connected; `rustygate-data-plane --control-plane URL` starts one");
            } else {
                screen.data(&table(&fleet, unix_ms_now(), screen.paint))?;
            }
            screen.note(&format!("the present revision is {}", fleet.head_revision));
            let refusals = change::refusals(&fleet.proxies, 1, screen.note_paint);
            if !refusals.is_empty() {
                screen.note(&refusals);
            }
            for warning in expiry::warnings(certificates.iter(), unix_ms_now()) {
                screen.warn(&warning);
            }
        }
    }
    let well = !fleet.proxies.is_empty() && fleet.proxies.iter().all(|proxy| is_well(proxy, fleet.head_revision));
    Ok(if args.check && !well { Exit::Failed } else { Exit::Success })
}

fn is_well(proxy: &wire::Proxy, head_revision: u64) -> bool {
    proxy.connected && proxy.refused_revision == 0 && proxy.revision == head_revision
}

fn table(fleet: &wire::ListProxiesResponse, now_ms: u64, paint: Paint) -> String {
    let mut table = Table::new(&["PROXY", "STATE", "REVISION", "LAG", "CONNECTED", "LAST SEEN", "VERSION", "ADDRESS"]);
    for proxy in &fleet.proxies {
        table.row([
            proxy.node_id.clone(),
            state(proxy, fleet.head_revision),
            proxy.revision.to_string(),
            proxy.lag_ms.map(|lag| format!("{lag} ms")).unwrap_or_default(),
            if proxy.connected { ago(now_ms, proxy.connected_unix_ms) } else { String::new() },
            ago(now_ms, proxy.last_seen_unix_ms),
            proxy.version.clone(),
            proxy.peer_address.clone(),
        ]);
    }
    table.render(paint)
}

fn state(proxy: &wire::Proxy, head_revision: u64) -> String {
    if !proxy.connected {
        "gone".to_owned()
    } else if proxy.refused_revision > 0 {
        format!("refuses {}", proxy.refused_revision)
    } else if proxy.revision < head_revision {
        "behind".to_owned()
    } else {
        "serving".to_owned()
    }
}

fn certificate_json(resource: &wire::Resource, now_ms: u64) -> Option<serde_json::Value> {
    let Some(wire::resource::Kind::Certificate(certificate)) = &resource.kind else { return None };
    let (names, validity) = expiry::of(certificate)?;
    Some(serde_json::json!({
        "name": certificate.name,
        "names": names,
        "not_before_unix_ms": validity.not_before.saturating_mul(1000),
        "not_after_unix_ms": validity.not_after.saturating_mul(1000),
        "days_left": expiry::days_left(validity, now_ms),
    }))
}

/// A proxy as JSON.
pub(crate) fn proxy_json(proxy: &wire::Proxy) -> serde_json::Value {
    let labels: serde_json::Map<String, serde_json::Value> =
        proxy.labels.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    serde_json::json!({
        "node_id": proxy.node_id,
        "labels": labels,
        "version": proxy.version,
        "peer_address": proxy.peer_address,
        "revision": proxy.revision,
        "connected": proxy.connected,
        "connected_unix_ms": proxy.connected_unix_ms,
        "last_seen_unix_ms": proxy.last_seen_unix_ms,
        "lag_ms": proxy.lag_ms,
        "refused_revision": (proxy.refused_revision > 0).then_some(proxy.refused_revision),
        "faults": faults_json(&proxy.faults),
        "unhealthy": proxy.health.as_ref().map(unhealthy_json).unwrap_or_else(|| serde_json::json!([])),
        "unhealthy_omitted": proxy.health.as_ref().map_or(0, |report| report.omitted),
    })
}

fn unhealthy_json(report: &wire::HealthReport) -> serde_json::Value {
    let one = |health: &wire::EndpointHealth| {
        let state = match health.state() {
            State::Down => "down",
            State::Ejected => "ejected",
            State::Unspecified => "unhealthy",
        };
        serde_json::json!({
            "backend": (!health.backend.is_empty()).then_some(&health.backend),
            "endpoint": health.endpoint,
            "state": state,
            "since_unix_ms": health.since_unix_ms,
        })
    };
    report.unhealthy.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_each_proxy_is_a_word() {
        let proxy = |node_id: &str, revision, refused_revision, connected| wire::Proxy {
            node_id: node_id.to_owned(),
            version: "0.1.0".to_owned(),
            peer_address: "10.0.0.9:4711".to_owned(),
            revision,
            refused_revision,
            connected,
            connected_unix_ms: 1_000,
            last_seen_unix_ms: 60_500,
            lag_ms: (revision == 9).then_some(4),
            ..wire::Proxy::default()
        };
        let proxies =
            vec![proxy("a", 9, 0, true), proxy("b", 8, 0, true), proxy("c", 8, 9, true), proxy("d", 8, 0, false)];
        let well: Vec<_> = proxies.iter().map(|proxy| is_well(proxy, 9)).collect();
        assert_eq!(well, [true, false, false, false]);
        let fleet = wire::ListProxiesResponse { head_revision: 9, proxies };
        insta::assert_snapshot!(table(&fleet, 61_000, Paint { on: false }), @r"
        PROXY  STATE      REVISION  LAG   CONNECTED  LAST SEEN  VERSION  ADDRESS
        a      serving    9         4 ms  1m ago     just now   0.1.0    10.0.0.9:4711
        b      behind     8         -     1m ago     just now   0.1.0    10.0.0.9:4711
        c      refuses 9  8         -     1m ago     just now   0.1.0    10.0.0.9:4711
        d      gone       8         -     -          just now   0.1.0    10.0.0.9:4711
        ");
    }
}
