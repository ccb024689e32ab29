//! The desired policy of each worker: what it is, and how it becomes control messages in a connection's dialect.

pub mod encode;
pub mod glob;
pub mod pairs;
pub mod policies;
pub mod policy;
