//! The stable codes of faults: those that reading a manifest and changing the configuration give, and the one list of
//! all codes there are, those of the compile step and of the proxies among them.
//!
//! A code is never given another meaning. Where one is used, its constant says what for.

/// The YAML cannot be parsed.
pub const SYNTAX: &str = "RG0101";
/// A key that nothing reads.
pub const UNKNOWN_FIELD: &str = "RG0102";
/// A string where a list belongs, and the like.
pub const WRONG_TYPE: &str = "RG0103";
/// A needed key is absent.
pub const MISSING_FIELD: &str = "RG0104";
/// A key that its mapping has twice.
pub const DUPLICATE_KEY: &str = "RG0105";
/// Two resources of one kind and name.
pub const DUPLICATE_NAME: &str = "RG0106";
/// Right type, wrong value.
pub const BAD_VALUE: &str = "RG0107";
/// Beyond a bound on size, depth or number.
pub const TOO_LARGE: &str = "RG0108";
/// A part of YAML that manifests do not have.
pub const UNSUPPORTED: &str = "RG0109";
/// Two keys that say the same in two ways.
pub const CONFLICT: &str = "RG0110";
/// A file or variable that is referred to and cannot be read.
pub const UNREADABLE: &str = "RG0120";
/// Someone else's resource was to be changed.
pub const OWNED: &str = "RG0401";
/// What is not there was to be removed.
pub const ABSENT: &str = "RG0402";
/// Two proxies use one node id.
pub const SHARED_NODE_ID: &str = "RG0403";
/// A secret, and no key to seal it with.
pub const NO_KEY: &str = "RG0411";

/// Every code and what is wrong, in order.
pub const ALL: [(&str, &str); 38] = [
    ("RG0101", "The YAML cannot be parsed"),
    ("RG0102", "A field that nothing reads"),
    ("RG0103", "A value of the wrong type"),
    ("RG0104", "A field that must be there is not, or the input is empty"),
    ("RG0105", "A key twice in one mapping; header names that differ in case only"),
    ("RG0106", "Two resources of one kind with one name"),
    ("RG0107", "A value that cannot be: out of its bounds, an unknown word, a bad name, an empty list"),
    ("RG0108", "Too large, too deep or too many"),
    ("RG0109", "A part of YAML that manifests do not have: tags, merge keys (`<<`), aliases to nothing"),
    ("RG0110", "Two fields that say the same thing in two ways"),
    ("RG0120", "A file or variable that the document refers to cannot be read"),
    ("RG0201", "A listener, backend, plugin or certificate is named that is not there"),
    ("RG0202", "Two matches ask for the same, so one could never win"),
    ("RG0203", "A regex that does not compile or is too large"),
    ("RG0204", "A URL that no request can be sent to"),
    ("RG0205", "Something is removed that a route, listener or backend still uses"),
    ("RG0206", "A host that no request can have"),
    ("RG0207", "A path that no request can have"),
    ("RG0208", "A plugin's configuration"),
    ("RG0209", "A plugin type that this version has not"),
    ("RG0210", "A number or a count beyond its bounds"),
    ("RG0211", "An address that cannot be listened on"),
    ("RG0212", "Two listeners on one address"),
    ("RG0213", "A resource that this version cannot read: damaged, or from a newer version"),
    ("RG0214", "A condition that no request can meet"),
    ("RG0220", "Certificates that cannot be used: no PEM, too many, damaged, or with a private key beside them"),
    ("RG0221", "A private key that cannot be used: not there, encrypted, of an unknown kind, or another certificate's"),
    ("RG0222", "Terms of TLS, or a protocol, that cannot be"),
    ("RG0230", "Two consumers with one API key or user name"),
    ("RG0301", "A listener cannot be bound; the proxy keeps serving the revision before"),
    ("RG0302", "A push came broken or out of order"),
    ("RG0303", "The checksum is not that of the revision"),
    ("RG0304", "The proxy failed inside while applying"),
    ("RG0305", "More faults than one answer holds; the rest is only counted"),
    ("RG0401", "A resource belongs to another owner"),
    ("RG0402", "There is nothing of that kind and name to delete"),
    ("RG0403", "Two proxies use one node id and close each other's streams"),
    ("RG0411", "A secret, and the control plane has no secrets key"),
];
