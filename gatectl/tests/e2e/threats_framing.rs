//! Attacks on where one HTTP/1 message ends and the next begins: each is a bug that some proxy had. The answer must be
//! the safe one, nothing of the attack may reach an upstream as a request of its own, and another client that shares the
//! upstream's connections must go on getting its own answers.

mod arena;
mod chunks;
mod heads;
