//! What a configuration costs, from ten routes to a hundred thousand: parsing it, compiling it, changing one route of
//! it, swapping it in, and finding a route in it.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{
    BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
    measurement::{Measurement as _, WallTime},
};
use prost::Message;
use rustygate_control_plane::manifest;
use rustygate_data_plane::{
    fields::Fields,
    route::RequestView,
    snapshot::{Snapshot, SnapshotCell},
};
use rustygate_proto::v1 as wire;

const SIZES: [usize; 3] = [10, 1_000, 100_000];

/// A manifest of so many routes over a hundred hosts and ten backends: mostly prefixes, some exact paths, some with
/// a condition on a header, as gateways have them.
fn yaml(routes: usize) -> String {
    let mut yaml = String::from("backends:\n");
    for backend in 0..10 {
        yaml += &format!("  - name: backend-{backend}\n    endpoints: [{{url: \"http://10.0.0.{backend}:8000\"}}]\n");
    }
    yaml += "routes:\n";
    for route in 0..routes {
        yaml += &route_yaml(route, route % 10);
    }
    yaml
}

fn route_yaml(route: usize, backend: usize) -> String {
    let host = route % 100;
    let path = match route % 10 {
        0 => format!("{{exact: /team-{route}/status}}"),
        _ => format!("/team-{route}/api"),
    };
    let matches = match route % 10 {
        1 => format!("matches: [{{path: {path}, headers: {{x-version: two}}}}]"),
        _ => format!("path: {path}"),
    };
    format!(
        "  - name: route-{route}\n    hosts: [host-{host}.example.com]\n    {matches}\n    backend: backend-{backend}\n"
    )
}

fn parse(yaml: String) -> Vec<wire::Change> {
    let document = wire::Document { file: "bench.yaml".to_owned(), yaml };
    let parsed = manifest::parse(vec![document]);
    parsed.resources.iter().map(change).collect()
}

fn change(resource: &wire::Resource) -> wire::Change {
    use wire::resource::Kind as Of;
    let (kind, name) = match resource.kind.as_ref().expect("a resource is of some kind") {
        Of::Listener(listener) => (wire::Kind::Listener, &listener.name),
        Of::Certificate(certificate) => (wire::Kind::Certificate, &certificate.name),
        Of::Consumer(consumer) => (wire::Kind::Consumer, &consumer.name),
        Of::Backend(backend) => (wire::Kind::Backend, &backend.name),
        Of::Plugin(plugin) => (wire::Kind::Plugin, &plugin.name),
        Of::Route(route) => (wire::Kind::Route, &route.name),
        Of::Defaults(defaults) => (wire::Kind::Defaults, &defaults.name),
    };
    wire::Change { kind: kind.into(), name: name.clone(), resource: Some(resource.encode_to_vec().into()) }
}

/// The manifest that moves the middle route to another backend.
fn one_change(routes: usize) -> Vec<wire::Change> {
    parse(format!("routes:\n{}", route_yaml(routes / 2, 9)))
}

fn compile(changes: &[wire::Change]) -> Snapshot {
    Snapshot::default().compile(1, changes).expect("the configuration of the bench compiles")
}

/// Host and path of a request.
type Request = (String, String);

/// Routes in some shape that gateways have: what the route of a number is, and a request that it gets.
struct Shape {
    name: &'static str,
    route: fn(usize) -> String,
    request: fn(usize) -> Request,
}

const SHAPES: [Shape; 4] = [
    Shape {
        name: "one_host",
        route: |n| format!("hosts: [www.example.com], path: /svc-{n}/api"),
        request: |n| ("www.example.com".to_owned(), format!("/svc-{n}/api/v1/items/42")),
    },
    Shape {
        name: "host_each",
        route: |n| format!("hosts: [host-{n}.example.com], path: /api"),
        request: |n| (format!("host-{n}.example.com"), "/api/v1/items/42".to_owned()),
    },
    Shape {
        name: "hundred_per_host",
        route: |n| format!("hosts: [host-{}.example.com], path: /svc-{n}/api", n / 100),
        request: |n| (format!("host-{}.example.com", n / 100), format!("/svc-{n}/api/v1/items/42")),
    },
    Shape { name: "mixed", route: mixed_route, request: mixed_request },
];

/// Exact and wildcard hosts, exact paths and prefixes, and conditions on methods and headers.
fn mixed_route(n: usize) -> String {
    let host = match n % 1_000 {
        host if host % 5 == 0 => format!("\"*.host-{host}.example.com\""),
        host => format!("host-{host}.example.com"),
    };
    match n % 7 {
        0 => format!("hosts: [{host}], path: {{exact: /svc-{n}/status}}"),
        1 => format!("hosts: [{host}], matches: [{{path: /svc-{n}/api, method: GET}}]"),
        2 => format!("hosts: [{host}], matches: [{{path: /svc-{n}/api, headers: {{x-version: two}}}}]"),
        _ => format!("hosts: [{host}], path: /svc-{n}/api"),
    }
}

fn mixed_request(n: usize) -> (String, String) {
    let host = match n % 1_000 {
        host if host % 5 == 0 => format!("a.host-{host}.example.com"),
        host => format!("host-{host}.example.com"),
    };
    let path = if n.is_multiple_of(7) { format!("/svc-{n}/status") } else { format!("/svc-{n}/api/v1/items/42") };
    (host, path)
}

/// How many requests are copied where the processor's cache has them, as it has what was just received, before the
/// clock runs.
const REQUESTS_AT_ONCE: usize = 64;

fn route_match(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route_match");
    group.throughput(Throughput::Elements(1));
    let mut fields = Fields::new();
    for (name, value) in [("Host", "any"), ("User-Agent", "bench"), ("Accept", "*/*"), ("X-Version", "two")] {
        fields.append(name, value.as_bytes());
    }
    for shape in &SHAPES {
        for size in SIZES {
            let mut yaml = String::from("routes:\n");
            (0..size).for_each(|n| {
                yaml += &format!("  - {{name: route-{n}, {}, backend: \"http://10.0.0.1:8000\"}}\n", (shape.route)(n));
            });
            let snapshot = compile(&parse(yaml));
            let requests: Vec<_> = shuffled(size).into_iter().map(shape.request).collect();
            for (n, (host, path)) in (0..size).map(|n| (n, (shape.request)(n))) {
                let found =
                    snapshot.router.find(&view(&host, &path, &fields)).map(|matched| matched.rule.route.to_string());
                assert_eq!(found, Some(format!("route-{n}")), "{host}{path}");
            }
            for (traffic, requests) in [("", uniform(&requests)), ("_popular", popular(&requests))] {
                let mut next = requests.iter().cycle();
                let mut received: Vec<_> = requests.iter().cycle().take(REQUESTS_AT_ONCE).cloned().cloned().collect();
                group.bench_function(BenchmarkId::new(format!("{}{traffic}", shape.name), size), |bencher| {
                    bencher.iter_custom(|iterations| {
                        let mut taken = Duration::ZERO;
                        let mut left = usize::try_from(iterations).expect("usize has 64 bits");
                        while left > 0 {
                            let received = &mut received[..left.min(REQUESTS_AT_ONCE)];
                            received.iter_mut().for_each(|request| request.clone_from(next.next().expect("no end")));
                            let start = WallTime.start();
                            for (host, path) in received.iter() {
                                black_box(snapshot.router.find(black_box(&view(host, path, &fields))));
                            }
                            taken += WallTime.end(start);
                            left -= received.len();
                        }
                        taken
                    });
                });
            }
        }
    }
    group.finish();
}

/// Every request as often as any other: among many routes nearly each lookup is of one that the processor's caches have
/// not seen for long. The worst case.
fn uniform(requests: &[Request]) -> Vec<&Request> {
    requests.iter().collect()
}

/// Nine of ten requests are for one route in a hundred, or for ten where that would be fewer; the tenth is for any: as
/// traffic is. Of ten routes all are as popular: a single one would be found well or badly by chance.
fn popular(requests: &[Request]) -> Vec<&Request> {
    let hot = &requests[..requests.len().div_ceil(100).max(10).min(requests.len())];
    (0..requests.len().max(1000))
        .map(|n| if n % 10 == 9 { &requests[n % requests.len()] } else { &hot[n.wrapping_mul(7919) % hot.len()] })
        .collect()
}

fn view<'a>(host: &'a str, path: &'a str, fields: &'a Fields) -> RequestView<'a> {
    RequestView { listener: "", method: "GET", host, path, query: None, fields }
}

/// The numbers below `count` in an order without pattern, the same at every run.
fn shuffled(count: usize) -> Vec<usize> {
    let mut numbers: Vec<_> = (0..count).collect();
    let mut random = 1_u64;
    for index in (1..count).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        numbers.swap(index, (random >> 33) as usize % (index + 1));
    }
    numbers
}

fn snapshot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for size in SIZES {
        let changes = parse(yaml(size));
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("compile", size), |bencher| {
            bencher.iter_with_large_drop(|| compile(&changes));
        });
        let before = compile(&changes);
        let delta = one_change(size);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("delta", size), |bencher| {
            bencher.iter_batched(
                || delta.clone(),
                |delta| before.compile(2, &delta).expect("one changed route compiles"),
                BatchSize::PerIteration,
            );
        });
        // The old snapshot is given back and freed elsewhere, so that is no part of it.
        let cell = SnapshotCell::default();
        let snapshots = [Arc::new(before.clone()), Arc::new(before.compile(2, &delta).expect("it compiles"))];
        let mut next = snapshots.iter().cycle();
        group.bench_function(BenchmarkId::new("swap", size), |bencher| {
            bencher.iter(|| cell.swap(Arc::clone(next.next().expect("a cycle has no end"))));
        });
    }
    group.finish();
}

fn yaml_parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("yaml_parse");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for size in SIZES {
        let documents = [wire::Document { file: "bench.yaml".to_owned(), yaml: yaml(size) }];
        group.throughput(Throughput::Bytes(documents[0].yaml.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_batched(
                || documents.to_vec(),
                |documents| manifest::parse(black_box(documents)),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = route_match, snapshot, yaml_parse
}
criterion_main!(benches);
