//! The admin port: health, metrics and the API.

pub mod settings;
