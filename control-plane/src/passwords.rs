//! Passwords of consumers that come in the clear are hashed, before anything else is done with them.
//!
//! A hash has a random salt, so hashing a password again gives another hash. Therefore a password is first compared with
//! the hash that is stored for the same consumer and user name: if it is that password's, it stays, and applying the same
//! input twice changes nothing. Either costs some 20 ms, so one input may bring only so many; hashes cost nothing.

use rustygate_data_plane::consumer::PasswordHash;
use rustygate_proto::v1::{self as wire, Kind, password::Form, resource};

use crate::codes::TOO_LARGE;
use crate::snapshot::Set;

/// The most passwords of one input that are not hashed yet: some 10 s.
pub const CLEAR_MAX: usize = 500;

/// Hashes what is in the clear. `stored` are the consumers that are there already, as [`stored`] finds them. Takes
/// milliseconds for each.
///
/// # Errors
/// A fault if there are more than [`CLEAR_MAX`], or no random numbers.
pub fn hash(resources: &mut [wire::Resource], stored: &[wire::Consumer]) -> Result<(), Vec<wire::Fault>> {
    let mut hashed = 0;
    for consumer in resources.iter_mut().filter_map(consumer_of) {
        let name = consumer.name.clone();
        let before = stored.iter().find(|stored| stored.name == name);
        for (index, credential) in consumer.basic_auth.iter_mut().enumerate() {
            let Some(wire::Password { form: Some(form) }) = &mut credential.password else { continue };
            let Form::Clear(clear) = &form else { continue };
            hashed += 1;
            if hashed > CLEAR_MAX {
                let message = format!("the input has more than {CLEAR_MAX} passwords that are not hashed");
                return Err(vec![fault(&name, index, &message, "apply it in parts, or write {hash: ...}")]);
            }
            let known = before.into_iter().flat_map(|before| &before.basic_auth);
            let known = known.filter(|known| known.username == credential.username).find_map(|known| {
                match known.password.as_ref().and_then(|password| password.form.as_ref()) {
                    Some(Form::Hash(hash)) => {
                        PasswordHash::parse(hash).ok().filter(|known| known.is_of(clear)).map(|_| hash)
                    }
                    Some(Form::Clear(_)) | None => None,
                }
            });
            let hash = match known {
                Some(known) => Some(known.clone()),
                None => salt().and_then(|salt| PasswordHash::make(clear, salt)),
            };
            let Some(hash) = hash else {
                return Err(vec![fault(&name, index, "there are no random numbers to hash it with", "try again")]);
            };
            *form = Form::Hash(hash);
        }
    }
    Ok(())
}

/// Puts a hash of nothing in the place of what is in the clear, where only the rest is of interest.
pub fn stand_in(resources: &mut [wire::Resource]) {
    for consumer in resources.iter_mut().filter_map(consumer_of) {
        for password in consumer.basic_auth.iter_mut().filter_map(|credential| credential.password.as_mut()) {
            if let Some(form @ Form::Clear(_)) = &mut password.form {
                *form = Form::Hash(STAND_IN.to_owned());
            }
        }
    }
}

/// A hash that nobody has the password to.
const STAND_IN: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Of the consumers that have a password in the clear, those that are there already.
#[must_use]
pub fn stored(resources: &[wire::Resource], set: &Set) -> Vec<wire::Consumer> {
    let named = resources.iter().filter_map(|resource| match &resource.kind {
        Some(resource::Kind::Consumer(consumer)) if consumer.basic_auth.iter().any(is_clear) => Some(&consumer.name),
        _ => None,
    });
    let found = named.filter_map(|name| match set.get(Kind::Consumer, name)?.resource()?.kind {
        Some(resource::Kind::Consumer(consumer)) => Some(consumer),
        _ => None,
    });
    found.collect()
}

/// Whether any of these has a password in the clear.
#[must_use]
pub fn any_clear(resources: &[wire::Resource]) -> bool {
    resources.iter().any(|resource| match &resource.kind {
        Some(resource::Kind::Consumer(consumer)) => consumer.basic_auth.iter().any(is_clear),
        _ => false,
    })
}

fn is_clear(credential: &wire::BasicCredential) -> bool {
    matches!(credential.password, Some(wire::Password { form: Some(Form::Clear(_)) }))
}

fn consumer_of(resource: &mut wire::Resource) -> Option<&mut wire::Consumer> {
    match &mut resource.kind {
        Some(resource::Kind::Consumer(consumer)) => Some(consumer),
        _ => None,
    }
}

fn salt() -> Option<[u8; 16]> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).ok()?;
    Some(salt)
}

fn fault(name: &str, index: usize, message: &str, hint: &str) -> wire::Fault {
    wire::Fault {
        code: TOO_LARGE.into(),
        kind: Kind::Consumer.into(),
        name: name.into(),
        field: format!("basic_auth[{index}].password"),
        message: message.into(),
        hint: hint.into(),
        location: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumer(passwords: &[(&str, Form)]) -> wire::Resource {
        let basic_auth = passwords.iter().map(|(username, form)| wire::BasicCredential {
            username: (*username).to_owned(),
            password: Some(wire::Password { form: Some(form.clone()) }),
        });
        let consumer = wire::Consumer { name: "a".into(), basic_auth: basic_auth.collect(), ..Default::default() };
        wire::Resource { kind: Some(resource::Kind::Consumer(consumer)) }
    }

    fn clear(password: &str) -> Form {
        Form::Clear(password.into())
    }

    fn hashes(resource: &wire::Resource) -> Vec<String> {
        let Some(resource::Kind::Consumer(consumer)) = &resource.kind else { panic!("a consumer") };
        let hash = |credential: &wire::BasicCredential| match &credential.password {
            Some(wire::Password { form: Some(Form::Hash(hash)) }) => hash.clone(),
            _ => panic!("it is not hashed"),
        };
        consumer.basic_auth.iter().map(hash).collect()
    }

    fn known(resource: &wire::Resource) -> Vec<wire::Consumer> {
        let Some(resource::Kind::Consumer(consumer)) = &resource.kind else { panic!("a consumer") };
        vec![consumer.clone()]
    }

    #[test]
    fn the_same_password_keeps_its_hash_and_another_gets_one() {
        let given = [consumer(&[("ann", clear("open sesame")), ("bob", clear("open barley"))])];
        let mut first = given.clone();
        hash(&mut first, &[]).expect("few");
        let before = hashes(&first[0]);
        assert!(PasswordHash::parse(&before[0]).expect("a hash").is_of(b"open sesame"));
        let mut again = given;
        hash(&mut again, &known(&first[0])).expect("few");
        assert_eq!(hashes(&again[0]), before);
        let mut swapped = [consumer(&[("bob", clear("open sesame")), ("ann", Form::Hash(before[0].clone()))])];
        hash(&mut swapped, &known(&first[0])).expect("few");
        let after = hashes(&swapped[0]);
        assert!(!before.contains(&after[0]), "the hash of another user name is not taken");
        assert_eq!(after[1], before[0], "a hash stays as it is");
        assert!(!any_clear(&swapped));
    }

    #[test]
    fn one_input_brings_only_so_many() {
        let hash_of_it = PasswordHash::make(b"open sesame", [1; 16]).expect("computed");
        let hashed = vec![("u", Form::Hash(hash_of_it)); CLEAR_MAX + 1];
        hash(&mut [consumer(&hashed)], &[]).expect("hashes cost nothing");
        let mut stood_in = [consumer(&vec![("u", clear("open sesame")); CLEAR_MAX + 1])];
        stand_in(&mut stood_in);
        assert!(!any_clear(&stood_in) && PasswordHash::parse(STAND_IN).is_ok());
    }
}
