//! Attacks by HTTP/2: frames that cost the gateway more than who sends them, and requests that an HTTP/1.1 upstream would
//! read otherwise than the gateway. Whoever attacks loses the connection or the stream; a bystander on the same worker
//! gets every answer, hardly later than before; and the process's memory grows by less than 64 MiB.
//!
//! Frames are written by hand: what is tested must not be what tests it.

pub mod arena;
mod bombs;
mod floods;
pub mod frames;
mod resets;
mod slow;
pub mod smuggling;
