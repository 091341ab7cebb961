//! HTTP/2 on either side, or on both: what a request and its answer are does not depend on it.

mod bodies;
mod endings;
mod equality;
mod lives;
mod rules;
mod sharing;
