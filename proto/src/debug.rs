//! How messages show themselves that have a secret in them, or bytes in which there may be one: without it. So no log
//! line and no panic message can tell one by accident.

use std::fmt;

use crate::v1::{Change, Chunk, Content, Document, Password, Secret, content, password, secret::Form};

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.form {
            Some(Form::Fingerprint(fingerprint)) => write!(formatter, "Secret({fingerprint})"),
            Some(Form::Clear(_)) => formatter.write_str("Secret(clear)"),
            Some(Form::Sealed(_)) => formatter.write_str("Secret(sealed)"),
            None => formatter.write_str("Secret(none)"),
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match &self.form {
            Some(password::Form::Hash(_)) => "Password(hash)",
            Some(password::Form::Clear(_)) => "Password(clear)",
            None => "Password(none)",
        })
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Content");
        shown
            .field("document", &self.document)
            .field("source", &self.source().as_str_name())
            .field("reference", &self.reference);
        match &self.outcome {
            Some(content::Outcome::Bytes(bytes)) => shown.field("bytes", &bytes.len()),
            Some(content::Outcome::Error(error)) => shown.field("error", error),
            None => &mut shown,
        }
        .finish()
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Document").field("file", &self.file).field("bytes", &self.yaml.len()).finish()
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.resource.as_ref().map(bytes::Bytes::len);
        let mut shown = formatter.debug_struct("Change");
        shown.field("kind", &self.kind()).field("name", &self.name).field("bytes", &bytes).finish()
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Chunk").field("bytes", &self.zstd.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_a_secret() {
        let secret = Secret { form: Some(Form::Clear(b"hunter2".to_vec())), salt: b"hunter2".to_vec() };
        let password = Password { form: Some(password::Form::Clear(b"hunter2".to_vec())) };
        let document = Document { file: "f".into(), yaml: "hunter2".into() };
        let change = Change { resource: Some("hunter2".into()), ..Change::default() };
        let chunk = Chunk { zstd: "hunter2".into() };
        let outcome = Some(content::Outcome::Bytes(b"hunter2".to_vec()));
        let content = Content { outcome, ..Content::default() };
        let shown = format!("{secret:?} {password:?} {document:?} {change:?} {chunk:?} {content:?}");
        // Neither as text nor as numbers.
        assert!(!shown.contains("hunter") && !shown.contains("104"), "{shown}");
    }
}
