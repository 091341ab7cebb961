//! Tokens that were signed once for the benches, and are valid until 2100.

/// A token and what it is checked with.
#[derive(Clone, Copy, Debug)]
pub struct Signed {
    /// As its header says, and the key's own.
    pub algorithm: &'static str,
    /// A public key in JSON (RFC 7517); a secret of HS256.
    pub key: &'static str,
    /// The token.
    pub token: &'static str,
}

/// Who signed them.
pub const ISSUER: &str = "https://login.bench.test";

/// For whom.
pub const AUDIENCE: &str = "orders";

/// One of each of the common kinds.
pub const ALL: [Signed; 3] = [RS256, ES256, HS256];

/// RSA of 2048 bits.
pub const RS256: Signed = Signed {
    algorithm: "RS256",
    key: "{\"kty\": \"RSA\", \"kid\": \"bench\", \"alg\": \"RS256\", \"n\": \"pGK-XzrOdT7P80cafK9v5zpE-tL-QhwMlW-cauKzBU\
     ZhLdBY3MITurdWzAV2JobbDizj-KIENFQmVc_ZdkL6DjWZ1wC5IjqtMhchS_Oi8_xQISdUocB1FSWYazJOgNTTKo0yyRZaUyPF16E9MY9u69gu\
     3h-TTfDKVV0eGQ5cG2lsFkWETO_FpFSwBtcFZWIohvKQIG4oPRX2d8Cq8a-DCLaL31wQIY-ll_hW1Q8pvu87IeAgctqneDwVWb57aF1Hhkwozj\
     65c71QBo0ZJdretKmPeBb4h1N_csl1TKQvI7OjCChcMH1jtxsxJQU5LJ4-NIZCNLSFWWvW-sz11Ynxyw\", \"e\": \"AQAB\"}",
    token: "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImJlbmNoIn0.eyJpc3MiOiJodHRwczovL2xvZ2luLmJlbmNoLnRlc3QiLCJhdWQiOi\
     JvcmRlcnMiLCJzdWIiOiJiN2Y5YjJjMC0xZjZiLTRjNTktOWQwZS01ZjJmMmI2YzFhMTEiLCJpYXQiOjE3NjcyMjU2MDAsImV4cCI6NDEwMjQ0\
     NDgwMCwic2NvcGUiOiJvcmRlcnM6cmVhZCBvcmRlcnM6d3JpdGUiLCJlbWFpbCI6ImFubkBiZW5jaC50ZXN0IiwiZ3JvdXBzIjpbInN0YWZmIi\
     wiYnV5ZXJzIl19.Rnvn3agm6XmEho_-pVRXYtTHWj2ct7uBqf5KC29z1t7uRZU9P6IEEz2ECH_Tmc_5S6ADEOUjbrRPwtmCCyeJGgofiknO80H\
     AoYPwK7f9JE3nP0-UfPh0YI_4Yj9Ea5WlQkoNJf1B2UEGTsXaNFoLmknSiLcO8izb6eynr--AX903d5Z3TlPiBF0dcAOfWVz-U0MiwnYf-dlKt\
     x6dJnL84B2vOlNoSmcMRfRgI8o-4XOjaGYQigYYwCYBS3eC75loetzl-qyrwYXY3EUqA6_jba9XfGsFdWrCaT-WL9MzeFk1TEpsPxlKM7AMvRa\
     dPN75l4qz_WRYDZJ74hgXdMQ8Yg",
};

/// P-256.
pub const ES256: Signed = Signed {
    algorithm: "ES256",
    key: "{\"kty\": \"EC\", \"kid\": \"bench\", \"alg\": \"ES256\", \"crv\": \"P-256\", \"x\": \
     \"uGRqF3d_jS13gb-Q73mca3KsrZvkliGncrNmHG6Gumg\", \"y\": \"XvtVJmafjRwi84vnxLqEMJdkNe48tazuYDxld96rcvk\"}",
    token: "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImJlbmNoIn0.eyJpc3MiOiJodHRwczovL2xvZ2luLmJlbmNoLnRlc3QiLCJhdWQiOi\
     JvcmRlcnMiLCJzdWIiOiJiN2Y5YjJjMC0xZjZiLTRjNTktOWQwZS01ZjJmMmI2YzFhMTEiLCJpYXQiOjE3NjcyMjU2MDAsImV4cCI6NDEwMjQ0\
     NDgwMCwic2NvcGUiOiJvcmRlcnM6cmVhZCBvcmRlcnM6d3JpdGUiLCJlbWFpbCI6ImFubkBiZW5jaC50ZXN0IiwiZ3JvdXBzIjpbInN0YWZmIi\
     wiYnV5ZXJzIl19.B59rH9vappwoLPrIyNCDQZNvCkdgrY1_qztBStfiiwww5AhMomM0riZoXFMn2Nc5zzhLCcNnwve-oRdiNhCKNg",
};

/// A shared secret.
pub const HS256: Signed = Signed {
    algorithm: "HS256",
    key: "bench bench bench bench bench bench",
    token: "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImJlbmNoIn0.eyJpc3MiOiJodHRwczovL2xvZ2luLmJlbmNoLnRlc3QiLCJhdWQiOi\
     JvcmRlcnMiLCJzdWIiOiJiN2Y5YjJjMC0xZjZiLTRjNTktOWQwZS01ZjJmMmI2YzFhMTEiLCJpYXQiOjE3NjcyMjU2MDAsImV4cCI6NDEwMjQ0\
     NDgwMCwic2NvcGUiOiJvcmRlcnM6cmVhZCBvcmRlcnM6d3JpdGUiLCJlbWFpbCI6ImFubkBiZW5jaC50ZXN0IiwiZ3JvdXBzIjpbInN0YWZmIi\
     wiYnV5ZXJzIl19.YPXkRsLF1nVToWqW6w_vviJ_74bqiQMlpW5MbcYb9fE",
};
