//! Hashes of passwords: Argon2id, and bcrypt as `htpasswd -B` makes it.
//!
//! People choose passwords, so their hashes are slow on purpose: whoever gets hold of the configuration can try only a few
//! guesses in a second. What a hash may cost is bounded, since a check costs the proxy the same.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use subtle::ConstantTimeEq as _;

/// The fewest bytes of a password that is hashed here.
pub const PASSWORD_BYTES_MIN: usize = 8;

/// The most bytes of a password; of a longer one in a request nothing is computed.
pub const PASSWORD_BYTES_MAX: usize = 256;

/// The most KiB of memory that one check takes.
pub const MEMORY_KIB_MAX: u32 = 64 << 10;

/// The most passes over the memory.
pub const PASSES_MAX: u32 = 10;

/// The most lanes. They are computed one after the other.
pub const LANES_MAX: u32 = 4;

/// The highest cost of bcrypt: a quarter of a second or so.
pub const BCRYPT_COST_MAX: u32 = 12;

const BCRYPT_COST_MIN: u32 = 4;

/// The most bytes of a hash as it is written.
const HASH_BYTES_MAX: usize = 256;

/// What new hashes cost: 19 MiB and two passes, some 20 ms.
const MEMORY_KIB: u32 = 19 << 10;
const PASSES: u32 = 2;
const LANES: u32 = 1;

const SALT_BYTES: usize = 16;
const OUTPUT_BYTES: usize = 32;

/// The hash of a password, ready to be compared.
#[derive(Clone, PartialEq, Eq)]
pub enum PasswordHash {
    /// Version 1.3 of it.
    Argon2id {
        /// What it costs.
        cost: Cost,
        /// 8 to 64 bytes.
        salt: Box<[u8]>,
        /// 16 to 64 bytes.
        output: Box<[u8]>,
    },
    /// Of the first 72 bytes of the password.
    Bcrypt(Box<str>),
}

/// What a computation of Argon2 costs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// Not the hash: it would let whoever reads logs try guesses.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Argon2id { .. } => "PasswordHash(argon2id)",
            Self::Bcrypt(_) => "PasswordHash(bcrypt)",
        })
    }
}

impl PasswordHash {
    /// Reads "$argon2id$v=19$m=19456,t=2,p=1$salt$hash" or "$2b$10$...".
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > HASH_BYTES_MAX {
            return Err(format!("a hash has at most {HASH_BYTES_MAX} characters"));
        }
        if let Some(rest) = text.strip_prefix("$argon2id$") {
            return parse_argon2id(rest);
        }
        if ["$2a$", "$2b$", "$2y$"].iter().any(|version| text.starts_with(version)) {
            return parse_bcrypt(text);
        }
        Err("this is no hash that can be checked: it begins neither with $argon2id$ nor with $2b$ or $2y$".to_owned())
    }

    /// Whether this is the password. Takes milliseconds.
    #[must_use]
    pub fn is_of(&self, password: &[u8]) -> bool {
        if password.len() > PASSWORD_BYTES_MAX {
            return false;
        }
        match self {
            Self::Argon2id { cost, salt, output } => {
                let mut computed = vec![0; output.len()];
                cost.compute(password, salt, &mut computed) && bool::from(computed.ct_eq(output))
            }
            // It compares in constant time, too.
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
        }
    }

    /// Feeds a hasher all that tells this hash from others.
    pub(super) fn absorb(&self, hasher: &mut blake3::Hasher) {
        let part = |hasher: &mut blake3::Hasher, bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        match self {
            Self::Argon2id { cost, salt, output } => {
                for number in [cost.memory_kib, cost.passes, cost.lanes] {
                    part(hasher, &number.to_le_bytes());
                }
                part(hasher, salt);
                part(hasher, output);
            }
            Self::Bcrypt(hash) => part(hasher, hash.as_bytes()),
        }
    }

    /// What stands in for the hash of somebody who is not there: it costs what a new one does, and is nobody's.
    #[must_use]
    pub fn of_nobody() -> Self {
        let cost = Cost { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES };
        Self::Argon2id { cost, salt: [0; SALT_BYTES].into(), output: [0; OUTPUT_BYTES].into() }
    }

    /// The hash of a password, as it is written. The salt must be random. Takes milliseconds.
    #[must_use]
    pub fn make(password: &[u8], salt: [u8; SALT_BYTES]) -> Option<String> {
        let cost = Cost { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES };
        let mut output = [0; OUTPUT_BYTES];
        cost.compute(password, &salt, &mut output).then(|| {
            let (salt, output) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(output));
            format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${output}")
        })
    }
}

#[cfg(test)]
impl PasswordHash {
    /// The hash of another password at the same cost.
    pub(crate) fn with_output_of(self, password: &[u8]) -> Self {
        let Self::Argon2id { cost, salt, mut output } = self else { panic!("only of argon2id") };
        assert!(cost.compute(password, &salt, &mut output));
        Self::Argon2id { cost, salt, output }
    }
}

impl Cost {
    fn params(self, output_bytes: usize) -> Option<Params> {
        Params::new(self.memory_kib, self.passes, self.lanes, Some(output_bytes)).ok()
    }

    /// Whether it could be computed.
    fn compute(self, password: &[u8], salt: &[u8], output: &mut [u8]) -> bool {
        let Some(params) = self.params(output.len()) else { return false };
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(password, salt, output).is_ok()
    }
}

fn parse_argon2id(text: &str) -> Result<PasswordHash, String> {
    const FORM: &str = "an argon2id hash is written as $argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH";
    let mut parts = text.split('$');
    let (Some("v=19"), Some(costs), Some(salt), Some(output), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(FORM.to_owned());
    };
    let mut costs = costs.split(',');
    let mut cost = |name: &str, least: u32, most: u32| -> Result<u32, String> {
        let number = costs.next().and_then(|cost| cost.strip_prefix(name)).and_then(|value| value.strip_prefix('='));
        let number: u32 = number.and_then(|number| number.parse().ok()).ok_or_else(|| FORM.to_owned())?;
        if (least..=most).contains(&number) {
            Ok(number)
        } else {
            Err(format!("{name}={number} costs too much or too little: {name} is from {least} to {most}"))
        }
    };
    let cost = Cost {
        memory_kib: cost("m", 8, MEMORY_KIB_MAX)?,
        passes: cost("t", 1, PASSES_MAX)?,
        lanes: cost("p", 1, LANES_MAX)?,
    };
    if costs.next().is_some() {
        return Err(FORM.to_owned());
    }
    let decode = |text: &str| STANDARD_NO_PAD.decode(text).map_err(|_| FORM.to_owned());
    let (salt, output) = (decode(salt)?, decode(output)?);
    if !(8..=64).contains(&salt.len()) || !(16..=64).contains(&output.len()) {
        return Err("the salt has 8 to 64 bytes and the hash 16 to 64".to_owned());
    }
    if cost.params(output.len()).is_none() {
        return Err("m must be at least eight times p".to_owned());
    }
    Ok(PasswordHash::Argon2id { cost, salt: salt.into(), output: output.into() })
}

fn parse_bcrypt(text: &str) -> Result<PasswordHash, String> {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| "this bcrypt hash is damaged".to_owned())?;
    if !(BCRYPT_COST_MIN..=BCRYPT_COST_MAX).contains(&parts.get_cost()) {
        let cost = parts.get_cost();
        return Err(format!("bcrypt with cost {cost}: it is from {BCRYPT_COST_MIN} to {BCRYPT_COST_MAX}"));
    }
    Ok(PasswordHash::Bcrypt(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -k 256 -p 1 -l 32 -v 13`, and
    /// `htpasswd -bnBC 5 "" password`-like hashes of "abc" from OpenBSD's tests.
    const ARGON2ID: &str = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
    const BCRYPT: &str = "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i";

    #[test]
    fn hashes_of_others_are_understood() {
        assert!(PasswordHash::parse(ARGON2ID).expect("a hash").is_of(b"password"));
        assert!(!PasswordHash::parse(ARGON2ID).expect("a hash").is_of(b"Password"));
        for version in ["$2a$", "$2b$", "$2y$"] {
            let hash = PasswordHash::parse(&BCRYPT.replace("$2a$", version)).expect("a hash");
            assert!(hash.is_of(b"abc") && !hash.is_of(b"abcd") && !hash.is_of(b""), "{version}");
        }
    }

    #[test]
    fn a_new_hash_is_of_its_password_alone() {
        let text = PasswordHash::make(b"correct horse", [3; 16]).expect("computed");
        let hash = PasswordHash::parse(&text).expect("a hash");
        assert!(hash.is_of(b"correct horse"));
        for wrong in [&b"correct horse "[..], b"", b"correct\0horse", &[b'a'; 1000]] {
            assert!(!hash.is_of(wrong));
        }
        assert_ne!(Some(text), PasswordHash::make(b"correct horse", [4; 16]), "another salt, another hash");
        let PasswordHash::Argon2id { cost, .. } = hash else { panic!("argon2id") };
        assert!(matches!(PasswordHash::of_nobody(), PasswordHash::Argon2id { cost: other, .. } if other == cost));
    }

    #[test]
    fn what_costs_too_much_or_is_no_hash_is_refused() {
        let with = |costs: &str| ARGON2ID.replace("m=256,t=2,p=1", costs);
        for bad in [
            "",
            "password",
            "$1$salt$hash",
            "$apr1$x$y",
            "$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
            "$argon2id$",
            &ARGON2ID.replace("v=19", "v=16"),
            &with("m=4294967295,t=2,p=1"),
            &with("m=65537,t=2,p=1"),
            &with("m=256,t=11,p=1"),
            &with("m=256,t=2,p=5"),
            &with("m=8,t=1,p=2"),
            &with("m=256,t=0,p=1"),
            &with("m=256,t=2"),
            &with("m=256,t=2,p=1,x=1"),
            &format!("{ARGON2ID}$"),
            &ARGON2ID.replace("c29tZXNhbHQ", "c2Fs"),
            &ARGON2ID.replace("nf65", "n!65"),
            &BCRYPT.replace("$06$", "$13$"),
            &BCRYPT.replace("$06$", "$03$"),
            &BCRYPT[..40],
            "$2b$",
            "$2b$é0$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0",
            &"$2b$".repeat(200),
        ] {
            assert!(PasswordHash::parse(bad).is_err(), "{bad}");
        }
    }
}
