//! The engine, driven in virtual time through its public face.

mod bench_worker;
mod documented_rules;
mod identity;
mod laws;
mod limits;
mod metrics;
mod metrics_moves;
mod nesting;
mod pairing_table;
mod records;
mod restart;
mod restart_damage;
mod restart_laws;
mod sampling;
mod simulation;
mod standalone;
mod steps;
mod weights;
mod whole_streams;
