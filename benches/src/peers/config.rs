//! The peers' configurations, and how each is told to use it.
//!
//! What makes the comparison fair is the same in all: one worker; kept-alive HTTP/1.1 connections to the upstream, in a pool
//! that never runs short; no access log; no compression; the upstream is told the client's address and scheme; TLS 1.3
//! with the same certificate, and session tickets at one listener alone; room for every idle connection. Whatever a proxy
//! does by default beyond that, it does.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use super::{
    load::ORIGIN,
    proxy::{Addresses, Setting},
};
use crate::tokens::{self, AUDIENCE, ISSUER};

/// Connections beside the idle ones: of other loads, and to the upstream.
const CONNECTIONS_BESIDE: usize = 2048;

/// nginx.
///
/// # Errors
/// If a file cannot be written.
pub fn nginx(program: &Path, setting: &Setting, listen: &Addresses, folder: &Path) -> anyhow::Result<Command> {
    let name = folder.display();
    let Setting { backend, identity, .. } = setting;
    let (certificate, key) = (identity.certificate.display(), identity.key.display());
    let connections = setting.idle_connections + CONNECTIONS_BESIDE;
    // Bodies stay in memory: by default a body of 16 KiB and a long answer to a slow client go through files. Its small
    // buffers would make it take half as long again for large bodies.
    let text = format!(
        "\
worker_processes 1;
daemon off;
pid {name}/pid;
error_log stderr crit;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {name}/body;
    proxy_temp_path {name}/proxy;
    fastcgi_temp_path {name}/fastcgi;
    uwsgi_temp_path {name}/uwsgi;
    scgi_temp_path {name}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    client_body_buffer_size 64k;
    proxy_max_temp_file_size 0;
    proxy_buffers 8 64k;
    proxy_busy_buffers_size 128k;
    http2_chunk_size 16k;
    ssl_buffer_size 16k;
    ssl_protocols TLSv1.3;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    proxy_http_version 1.1;
    proxy_set_header Connection \"\";
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    limit_req_zone $binary_remote_addr zone=bench:10m rate=1000000r/s;
    limit_req_status 429;
    upstream bench {{
        server {backend};
        keepalive 1024;
        keepalive_requests 1000000000;
        keepalive_timeout 600s;
    }}
    server {{
        listen {http1};
        listen {h2c} http2;
        listen {tls} ssl http2;
        ssl_session_tickets off;
        location / {{ proxy_pass http://bench; }}
    }}
    server {{
        listen {tls_tickets} ssl http2;
        location / {{ proxy_pass http://bench; }}
    }}
    server {{
        listen {limit};
        limit_req zone=bench burst=1000000 nodelay;
        location / {{ proxy_pass http://bench; }}
    }}
}}
",
        http1 = listen.http1,
        h2c = listen.h2c,
        tls = listen.tls,
        tls_tickets = listen.tls_tickets,
        limit = listen.limit,
    );
    let mut command = Command::new(program);
    command.arg("-e").arg("stderr").arg("-p").arg(folder).arg("-c").arg(write(folder, "nginx.conf", &text)?);
    Ok(command)
}

/// HAProxy.
///
/// # Errors
/// If a file cannot be written.
pub fn haproxy(program: &Path, setting: &Setting, listen: &Addresses, folder: &Path) -> anyhow::Result<Command> {
    let Setting { backend, identity, .. } = setting;
    let certificate = identity.both.display();
    let connections = setting.idle_connections + CONNECTIONS_BESIDE;
    // It reckons with two files for each connection and would not start with fewer: an idle one needs one. Without tickets
    // and without a cache of sessions, which would take their place, handshakes are full and nothing is kept of them.
    let text = format!(
        "\
global
    nbthread 1
    maxconn {connections}
    no strict-limits
    tune.ssl.cachesize 0
    ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 600s
    http-reuse always
    option forwardfor
    default_backend bench
frontend clear
    bind {http1}
    bind {h2c} proto h2
    http-request set-header X-Forwarded-Proto http
frontend tls
    bind {tls} ssl crt {certificate} alpn h2,http/1.1 no-tls-tickets
    bind {tls_tickets} ssl crt {certificate} alpn h2,http/1.1
    http-request set-header X-Forwarded-Proto https
backend bench
    server one {backend}
",
        http1 = listen.http1,
        h2c = listen.h2c,
        tls = listen.tls,
        tls_tickets = listen.tls_tickets,
    );
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(write(folder, "haproxy.cfg", &text)?);
    Ok(command)
}

/// Envoy.
///
/// # Errors
/// If a file cannot be written.
pub fn envoy(program: &Path, setting: &Setting, listen: &Addresses, folder: &Path) -> anyhow::Result<Command> {
    let socket = |address: SocketAddr| {
        let (ip, port) = (address.ip(), address.port());
        format!("{{socket_address: {{address: \"{ip}\", port_value: {port}}}}}")
    };
    let identity = &setting.identity;
    let (certificate, key) = (identity.certificate.display(), identity.key.display());
    let tls = |without_tickets: bool| {
        format!(
            "
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          disable_stateless_session_resumption: {without_tickets}
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}
            tls_certificates:
            - {{certificate_chain: {{filename: \"{certificate}\"}}, private_key: {{filename: \"{key}\"}}}}"
        )
    };
    // Request ids are off because no other proxy here makes any; statistics are on as by default.
    let listener = |address, codec: &str, filter: &str, tls: &str| {
        let listen = socket(address);
        format!(
            "  - address: {listen}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          codec_type: {codec}
          use_remote_address: true
          generate_request_id: false
          route_config:
            virtual_hosts:
            - name: bench
              domains: [\"*\"]
              routes:
              - match: {{prefix: /}}
                route: {{cluster: bench}}
          http_filters:{filter}
          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router{tls}
"
        )
    };
    let listeners = [
        listener(listen.http1, "HTTP1", "", ""),
        listener(listen.h2c, "HTTP2", "", ""),
        listener(listen.tls, "AUTO", "", &tls(true)),
        listener(listen.tls_tickets, "AUTO", "", &tls(false)),
        listener(listen.limit, "HTTP1", ENVOY_LIMIT, ""),
        listener(listen.jwt, "HTTP1", &envoy_jwt(), ""),
    ]
    .concat();
    let backend = socket(setting.backend);
    let text = format!(
        "\
static_resources:
  listeners:
{listeners}  clusters:
  - name: bench
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds:
      - {{max_connections: 4096, max_pending_requests: 4096, max_requests: 4096}}
    load_assignment:
      cluster_name: bench
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {backend}}}
"
    );
    let mut command = Command::new(program);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]);
    command.arg(write(folder, "envoy.yaml", &text)?);
    Ok(command)
}

/// One bucket for all clients, which is less than one for each address.
const ENVOY_LIMIT: &str = "
          - name: envoy.filters.http.local_ratelimit
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
              stat_prefix: bench
              token_bucket: {max_tokens: 1000000, tokens_per_fill: 1000000, fill_interval: 1s}
              filter_enabled: {default_value: {numerator: 100}}
              filter_enforced: {default_value: {numerator: 100}}";

/// It remembers tokens only if it is told to.
fn envoy_jwt() -> String {
    let key = tokens::RS256.key;
    format!(
        "
          - name: envoy.filters.http.jwt_authn
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                bench:
                  issuer: {ISSUER}
                  audiences: [{AUDIENCE}]
                  local_jwks: {{inline_string: '{{\"keys\": [{key}]}}'}}
                  jwt_cache_config: {{jwt_cache_size: 100}}
              rules:
              - {{match: {{prefix: /}}, requires: {{provider_name: bench}}}}"
    )
}

/// Caddy. Its Caddyfile knows no way to do without session tickets, so it has them at both listeners.
///
/// # Errors
/// If a file cannot be written.
pub fn caddy(program: &Path, setting: &Setting, listen: &Addresses, folder: &Path) -> anyhow::Result<Command> {
    let Setting { backend, identity, .. } = setting;
    let (certificate, key) = (identity.certificate.display(), identity.key.display());
    let text = format!(
        "\
{{
    admin off
    auto_https off
    persist_config off
    log {{
        level ERROR
    }}
    servers {{
        protocols h1 h2 h2c
    }}
}}
(proxy) {{
    bind {ip}
    reverse_proxy {backend} {{
        transport http {{
            compression off
            keepalive 600s
            keepalive_idle_conns 1024
            keepalive_idle_conns_per_host 1024
        }}
    }}
}}
http://:{http1}, http://:{h2c} {{
    import proxy
}}
https://:{tls}, https://:{tls_tickets} {{
    tls {certificate} {key} {{
        protocols tls1.3
    }}
    import proxy
}}
",
        ip = listen.http1.ip(),
        http1 = listen.http1.port(),
        h2c = listen.h2c.port(),
        tls = listen.tls.port(),
        tls_tickets = listen.tls_tickets.port(),
    );
    let mut command = Command::new(program);
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(write(folder, "Caddyfile", &text)?);
    command.env("GOMAXPROCS", "1").env("HOME", folder).env("XDG_CONFIG_HOME", folder).env("XDG_DATA_HOME", folder);
    Ok(command)
}

/// RustyGate's manifest. Session tickets are always on there.
#[must_use]
pub fn rustygate(setting: &Setting, listen: &Addresses) -> String {
    let Setting { backend, identity, .. } = setting;
    let (certificate, key) = (identity.certificate.display(), identity.key.display());
    format!(
        "\
listeners:
  - {{name: http1, address: \"{http1}\"}}
  - {{name: h2c, address: \"{h2c}\"}}
  - {{name: tls, address: \"{tls}\", tls: {{certificates: [bench], min_version: \"1.3\"}}}}
  - {{name: tls-tickets, address: \"{tls_tickets}\", tls: {{certificates: [bench], min_version: \"1.3\"}}}}
  - {{name: limit, address: \"{limit}\", plugins: [limit]}}
  - {{name: jwt, address: \"{jwt}\", plugins: [jwt]}}
  - {{name: plugins, address: \"{plugins}\", plugins: [cors, jwt, limit, headers]}}
plugins:
  - {{name: limit, type: rate_limit, config: {{requests: 1000000, per: 1s}}}}
  - {{name: jwt, type: jwt, config: {{keys: [{{jwk: '{jwk}'}}], issuer: {ISSUER}, audience: {AUDIENCE}}}}}
  - {{name: cors, type: cors, config: {{allow_origins: [\"{ORIGIN}\"]}}}}
  - name: headers
    type: headers
    config:
      request: {{set: {{x-gateway: bench}}}}
      response: {{set: {{strict-transport-security: max-age=31536000}}, remove: [x-powered-by]}}
certificates:
  - {{name: bench, certificate: {{file: \"{certificate}\"}}, key: {{file: \"{key}\"}}}}
routes:
  - {{name: bench, path: /, backend: \"http://{backend}\"}}
",
        http1 = listen.http1,
        h2c = listen.h2c,
        tls = listen.tls,
        tls_tickets = listen.tls_tickets,
        limit = listen.limit,
        jwt = listen.jwt,
        plugins = listen.plugins,
        jwk = tokens::RS256.key,
    )
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
