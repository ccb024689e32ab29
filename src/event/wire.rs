//! From the bytes of one `TelemetryEvent` message to an [`Event`], without copying.

use super::Event;

/// Why bytes are not a `TelemetryEvent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends in the middle of a field.
    #[error("message ends in the middle of a field")]
    Truncated,
}

/// Decodes one message.
///
/// # Errors
/// When `prost` would refuse the bytes as a `TelemetryEvent`; never otherwise.
pub fn decode(_bytes: &[u8]) -> Result<Event<'_>, DecodeError> {
    Err(DecodeError::Truncated)
}
