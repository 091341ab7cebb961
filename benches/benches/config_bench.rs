//! What a configuration costs, from ten routes to a hundred thousand: parsing it, compiling it, changing one route of
//! it, swapping it in, and finding a route in it.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
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
    let parsed = manifest::parse(&[document]);
    parsed.resources.iter().map(change).collect()
}

fn change(resource: &wire::Resource) -> wire::Change {
    use wire::resource::Kind as Of;
    let (kind, name) = match resource.kind.as_ref().expect("a resource is of some kind") {
        Of::Listener(listener) => (wire::Kind::Listener, &listener.name),
        Of::Backend(backend) => (wire::Kind::Backend, &backend.name),
        Of::Plugin(plugin) => (wire::Kind::Plugin, &plugin.name),
        Of::Route(route) => (wire::Kind::Route, &route.name),
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

fn route_match(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route_match");
    for size in SIZES {
        let snapshot = compile(&parse(yaml(size)));
        // About a thousand routes in turn, so that the answer is not always in the processor's cache; the step is
        // odd, so that every host and every kind of match is among them.
        let requests: Vec<_> = (0..size)
            .step_by((size / 1_000).max(1) | 1)
            .map(|route| (format!("host-{}.example.com", route % 100), path_of(route), format!("route-{route}")))
            .collect();
        let mut fields = Fields::new();
        for (name, value) in
            [("Host", "host.example.com"), ("User-Agent", "bench"), ("Accept", "*/*"), ("X-Version", "two")]
        {
            fields.append(name, value.as_bytes());
        }
        let view = |host, path| RequestView { listener: "", method: "GET", host, path, query: None, fields: &fields };
        for (host, path, name) in &requests {
            let found = snapshot.router.find(&view(host, path)).map(|matched| &*matched.rule.route);
            assert_eq!(found, Some(name.as_str()), "{host}{path}");
        }
        let mut next = requests.iter().cycle();
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let (host, path, _) = next.next().expect("a cycle has no end");
                snapshot.router.find(black_box(&view(host, path))).is_some()
            });
        });
        group.bench_function(BenchmarkId::new("none", size), |bencher| {
            bencher.iter(|| snapshot.router.find(black_box(&view("host-1.example.com", "/nobody/has/this"))).is_some());
        });
    }
    group.finish();
}

fn path_of(route: usize) -> String {
    match route % 10 {
        0 => format!("/team-{route}/status"),
        _ => format!("/team-{route}/api/v1/items/42"),
    }
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
            bencher.iter_with_large_drop(|| manifest::parse(black_box(&documents)));
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
