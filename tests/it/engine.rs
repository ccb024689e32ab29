//! The engine, driven in virtual time through its public face.

mod bench_worker;
mod identity;
mod laws;
mod limits;
mod nesting;
mod pairing_table;
mod sampling;
mod simulation;
mod standalone;
mod steps;
mod whole_streams;
