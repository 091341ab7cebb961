//! `token`: make, list and revoke the tokens that the control plane accepts.

use rustygate_proto::v1 as wire;

use crate::{
    cli::{Role, TableFormat, TokenCommand},
    client::Client,
    failure::{Exit, Failure},
    output::{Paint, Screen, Table, ago, escape, unix_ms_now},
};

/// Does what is asked.
pub(crate) async fn run(screen: Screen, client: &Client, command: TokenCommand) -> Result<Exit, Failure> {
    match command {
        TokenCommand::Create { role, name } => {
            let role = wire_role(role);
            let name = name.unwrap_or_else(|| format!("{}-{}", word(role), unix_ms_now()));
            let request = wire::CreateTokenRequest { name: name.clone(), role: role.into() };
            let secret = client.create_token(request).await?.secret;
            screen.data(&format!("{secret}\n"))?;
            screen.note(&format!(
                "token {} ({}) is in force; its secret is not shown again",
                escape(&name),
                word(role)
            ));
        }
        TokenCommand::List { output } => {
            let tokens = client.list_tokens().await?.tokens;
            match output {
                TableFormat::Table => screen.data(&table(&tokens, unix_ms_now(), screen.paint))?,
                TableFormat::Json => screen.json(&tokens.iter().map(json).collect())?,
            }
        }
        TokenCommand::Revoke { name } => {
            client.revoke_token(name.clone()).await?;
            screen.note(&format!("token {} is revoked", escape(&name)));
        }
    }
    Ok(Exit::Success)
}

fn wire_role(role: Role) -> wire::Role {
    match role {
        Role::Proxy => wire::Role::Proxy,
        Role::Viewer => wire::Role::Viewer,
        Role::Editor => wire::Role::Editor,
        Role::Admin => wire::Role::Admin,
    }
}

fn word(role: wire::Role) -> &'static str {
    match role {
        wire::Role::Unspecified => "unknown",
        wire::Role::Proxy => "proxy",
        wire::Role::Viewer => "viewer",
        wire::Role::Editor => "editor",
        wire::Role::Admin => "admin",
    }
}

fn table(tokens: &[wire::Token], now_ms: u64, paint: Paint) -> String {
    let mut table = Table::new(&["TOKEN", "ROLE", "CREATED", "STATE"]);
    for token in tokens {
        let state = match token.revoked_unix_ms {
            0 => "in force".to_owned(),
            revoked => format!("revoked {}", ago(now_ms, revoked)),
        };
        table.row([token.name.clone(), word(token.role()).to_owned(), ago(now_ms, token.created_unix_ms), state]);
    }
    table.render(paint)
}

fn json(token: &wire::Token) -> serde_json::Value {
    serde_json::json!({
        "name": token.name,
        "role": word(token.role()),
        "created_unix_ms": token.created_unix_ms,
        "revoked_unix_ms": (token.revoked_unix_ms > 0).then_some(token.revoked_unix_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revoked_token_says_since_when() {
        let token = |name: &str, role: wire::Role, revoked_unix_ms| wire::Token {
            name: name.to_owned(),
            role: role.into(),
            created_unix_ms: 1_000,
            revoked_unix_ms,
        };
        let tokens = [token("ci", wire::Role::Editor, 0), token("old", wire::Role::Proxy, 31_000)];
        insta::assert_snapshot!(table(&tokens, 61_000, Paint { on: false }), @r"
        TOKEN  ROLE    CREATED  STATE
        ci     editor  1m ago   in force
        old    proxy   1m ago   revoked 30s ago
        ");
    }
}
