//! `explain`: which route gets a request, and the first condition that failed for each of the others.

use std::fmt::Write as _;

use rustygate_data_plane::fields::is_token;
use rustygate_proto::v1 as wire;

use super::validate;
use crate::{
    cli::{ExplainArgs, TextFormat},
    client::Client,
    failure::{Exit, Failure},
    input,
    output::{Paint, Screen, escape},
};

/// Asks the control plane.
pub(crate) async fn ask(screen: Screen, client: &Client, args: ExplainArgs) -> Result<Exit, Failure> {
    let response = client.explain(request(&args)?).await?;
    show(screen, &args, &response)
}

/// Asks the files.
pub(crate) fn offline(screen: Screen, args: &ExplainArgs) -> Result<Exit, Failure> {
    let request = request(args)?;
    let documents = input::read(&args.paths)?;
    let contents = input::contents(&documents);
    let valid = rustygate_control_plane::validate::check(documents, contents)
        .map_err(|faults| validate::refuse(screen, &faults))?;
    let answer = rustygate_control_plane::api::explain(&valid.snapshot, &request);
    let answer = answer.map_err(|status| Failure::new(escape(status.message())))?;
    // Files have no revision.
    show(screen, args, &wire::ExplainResponse { revision: 0, ..answer })
}

fn request(args: &ExplainArgs) -> Result<wire::ExplainRequest, Failure> {
    if !is_token(args.method.as_bytes()) {
        return Err(Failure::new(format!("{:?} is not a method", escape(&args.method)))
            .with_hint("write the method first: gatectl explain GET http://localhost:8080/api/users"));
    }
    let headers = args.headers.iter().map(|(name, value)| wire::Header { name: name.clone(), value: value.clone() });
    Ok(wire::ExplainRequest {
        method: args.method.clone(),
        url: args.url.clone(),
        headers: headers.collect(),
        listener: args.listener.clone(),
        revision: args.revision.unwrap_or_default(),
    })
}

fn show(screen: Screen, args: &ExplainArgs, response: &wire::ExplainResponse) -> Result<Exit, Failure> {
    let won = response.candidates.iter().any(|candidate| candidate.winner);
    match args.output {
        TextFormat::Text => screen.data(&text(&args.method, response, screen.paint))?,
        TextFormat::Json => screen.json(&json(response))?,
    }
    Ok(if won { Exit::Success } else { Exit::Failed })
}

fn text(method: &str, response: &wire::ExplainResponse, paint: Paint) -> String {
    let mut text = String::new();
    if !response.refused.is_empty() {
        let _ = writeln!(text, "{} {}", paint.red("refused (400):"), escape(&response.refused));
        return text;
    }
    let host = if response.canonical_host.is_empty() { "(none)" } else { &response.canonical_host };
    let _ = writeln!(text, "{method}  host {}  path {}\n", escape(host), escape(&response.canonical_path));
    for candidate in &response.candidates {
        let place = if candidate.rule == 0 && candidate.r#match == 0 {
            String::new()
        } else {
            format!(" (rule {}, match {})", candidate.rule, candidate.r#match)
        };
        let title = format!("{}{place}: {}", escape(&candidate.route), escape(&candidate.conditions));
        let _ = if candidate.winner {
            writeln!(text, "{} {title}", paint.green("->"))
        } else if candidate.failed.is_empty() {
            writeln!(text, "   {title}\n     {}", paint.dim("would match, but another goes before it"))
        } else {
            writeln!(text, "   {title}\n     {} {}", paint.dim("no:"), escape(&candidate.failed))
        };
    }
    if response.omitted > 0 {
        let _ = writeln!(text, "   ({} more, which are no nearer, are not listed)", response.omitted);
    }
    let _ = match response.candidates.iter().find(|candidate| candidate.winner) {
        Some(winner) => writeln!(text, "\n{} gets it: {}", escape(&winner.route), escape(&winner.action)),
        None => writeln!(text, "{}", paint.red("no route gets it (404)")),
    };
    text
}

fn json(response: &wire::ExplainResponse) -> serde_json::Value {
    let candidate = |candidate: &wire::Candidate| {
        serde_json::json!({
            "route": candidate.route,
            "rule": candidate.rule,
            "match": candidate.r#match,
            "conditions": candidate.conditions,
            "failed": candidate.failed,
            "winner": candidate.winner,
            "action": candidate.action,
        })
    };
    serde_json::json!({
        "revision": (response.revision > 0).then_some(response.revision),
        "host": response.canonical_host,
        "path": response.canonical_path,
        "refused": response.refused,
        "candidates": response.candidates.iter().map(candidate).collect::<serde_json::Value>(),
        "omitted": response.omitted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(route: &str, failed: &str, winner: bool) -> wire::Candidate {
        wire::Candidate {
            route: route.to_owned(),
            conditions: "path prefix /api".to_owned(),
            failed: failed.to_owned(),
            winner,
            action: if winner { "backend users, path /".to_owned() } else { String::new() },
            ..wire::Candidate::default()
        }
    }

    #[test]
    fn the_winner_is_marked_and_each_other_says_why_not() {
        let response = wire::ExplainResponse {
            canonical_host: "api.example.com".to_owned(),
            canonical_path: "/api".to_owned(),
            candidates: vec![
                candidate("canary", "header x-version is absent", false),
                candidate("users", "", true),
                candidate("old", "", false),
            ],
            omitted: 3,
            ..wire::ExplainResponse::default()
        };
        insta::assert_snapshot!(text("GET", &response, Paint { on: false }), @r"
        GET  host api.example.com  path /api

           canary: path prefix /api
             no: header x-version is absent
        -> users: path prefix /api
           old: path prefix /api
             would match, but another goes before it
           (3 more, which are no nearer, are not listed)

        users gets it: backend users, path /
        ");
    }

    #[test]
    fn a_request_that_is_refused_has_no_candidates() {
        let response = wire::ExplainResponse { refused: "bad path".to_owned(), ..wire::ExplainResponse::default() };
        assert_eq!(text("GET", &response, Paint { on: false }), "refused (400): bad path\n");
    }
}
