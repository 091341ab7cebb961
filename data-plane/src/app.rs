//! Wiring and life cycle of a data plane: what is started, in which order, and how it ends.
