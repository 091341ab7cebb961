//! Three small services that say who they are and what they were asked, and a manifest with routes to them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use axum::{Router, body::Body, extract::Request, http::HeaderValue, response::Response};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::StreamExt as _;

use crate::failure::Failure;

const SERVICES: [&str; 3] = ["users-1", "users-2", "orders-1"];

/// Headers of a request that a service shows: those that a gateway makes or changes.
const HEADERS_SHOWN: [&str; 8] =
    ["host", "user-agent", "accept", "content-type", "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-version"];

/// The running services, and a folder that goes with them.
#[derive(Debug)]
pub(super) struct Demo {
    folder: PathBuf,
    services: Vec<JoinHandle<()>>,
}

impl Demo {
    /// Starts the services on free ports and writes the manifest.
    pub(super) async fn start() -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(super::unique("rustygate-demo"));
        let cannot = |error| Failure::new(format!("cannot start the demo: {error}"));
        fs::create_dir(&folder).map_err(cannot)?;
        let mut demo = Self { folder, services: Vec::new() };
        let mut urls = Vec::new();
        for service in SERVICES {
            let listener = TcpListener::bind("127.0.0.1:0").await.map_err(cannot)?;
            urls.push(format!("http://{}", listener.local_addr().map_err(cannot)?));
            demo.services.push(tokio::spawn(serve(listener, service)));
        }
        fs::write(demo.manifest(), manifest(&urls)).map_err(cannot)?;
        Ok(demo)
    }

    /// Where temporary things of the demo are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file with the routes.
    pub(super) fn manifest(&self) -> PathBuf {
        self.folder.join("demo.yaml")
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.services.iter().for_each(JoinHandle::abort);
        // What is left of it goes with the system's temporary folder.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

async fn serve(listener: TcpListener, service: &'static str) {
    let app = Router::new().fallback(move |request: Request| answer(service, request));
    // Only a broken listener ends it.
    if let Err(error) = axum::serve(listener, app).await {
        tracing::warn!(%error, service, "demo service ended");
    }
}

async fn answer(service: &str, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let headers: serde_json::Map<String, serde_json::Value> = HEADERS_SHOWN
        .iter()
        .filter_map(|name| {
            let value = String::from_utf8_lossy(head.headers.get(*name)?.as_bytes()).into_owned();
            Some(((*name).to_owned(), value.into()))
        })
        .collect();
    let mut body_bytes = 0;
    let mut body = body.into_data_stream();
    while let Some(Ok(part)) = body.next().await {
        body_bytes += part.len();
    }
    let answer = serde_json::json!({
        "service": service,
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map_or("/", |path| path.as_str()),
        "headers": headers,
        "body_bytes": body_bytes,
    });
    let mut response = Response::new(Body::from(format!("{answer:#}\n")));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

fn manifest(urls: &[String]) -> String {
    let [users_1, users_2, orders] = [&urls[0], &urls[1], &urls[2]];
    format!(
        r#"# The routes of `gatectl dev --demo`. Change them, then run `gatectl apply --owner dev -f` on this file;
# with `dev --demo --watch` saving is enough.
backends:
  - name: users
    endpoints: [{{url: "{users_1}"}}, {{url: "{users_2}"}}]
  - name: users-v2
    endpoints: [{{url: "{users_2}"}}]
  - name: orders
    endpoints: [{{url: "{orders}"}}]
routes:
  - name: users
    path: /api/users
    backend: users
  - name: users-v2
    matches:
      - path: /api/users
        headers: {{x-version: two}}
    backend: users-v2
  - name: orders
    path: /api/orders
    backend: orders
    strip_prefix: false
"#
    )
}

#[cfg(test)]
mod tests {
    use axum::http::{Method, Uri};

    use super::*;

    #[test]
    fn the_manifest_is_yaml_with_a_route_for_each_backend() {
        let urls = ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"].map(str::to_owned);
        let value: serde_json::Value = serde_yaml::from_str(&manifest(&urls)).expect("YAML");
        let names = |list: &str, field: &str| -> Vec<String> {
            let entries = value[list].as_array().expect("a list").iter();
            let mut names: Vec<_> = entries.map(|entry| entry[field].as_str().expect("text").to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names("backends", "name"), names("routes", "backend"));
    }

    #[tokio::test]
    async fn a_service_says_who_it_is_and_what_it_was_asked() {
        let mut request = Request::new(Body::from("hello"));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("/a?b=c");
        request.headers_mut().insert("x-version", HeaderValue::from_static("two"));
        request.headers_mut().insert("cookie", HeaderValue::from_static("secret"));
        let response = answer("users-1", request).await;
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.expect("body");
        let value: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let expected = serde_json::json!({
            "service": "users-1", "method": "POST", "path": "/a?b=c", "headers": {"x-version": "two"}, "body_bytes": 5,
        });
        assert_eq!(value, expected);
    }

    #[tokio::test]
    async fn the_folder_goes_with_the_demo() {
        let demo = Demo::start().await.expect("starts");
        let folder = demo.folder().to_owned();
        assert!(demo.manifest().is_file());
        drop(demo);
        assert!(!folder.exists());
    }
}
