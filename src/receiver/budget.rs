//! Bounds the bytes of large messages that wait before a shard.
//!
//! A shard's channel counts messages, which bounds its bytes as long as messages are small. A large one is charged to its
//! shard's budget until the shard lets go of it; a stream whose message finds no room waits, as before a full channel.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::shard::{ShardMessage, Shards};

/// From here on a message is charged. A turn of smaller ones is no larger than this either.
pub(super) const LARGE_MESSAGE_BYTES: usize = 64 << 10;

/// Large messages before one shard: as much as its channel holds of full turns of small ones.
const BUDGET_KIB: u32 = 16 << 10;

/// The budget of every shard.
#[derive(Debug)]
pub(super) struct Budgets {
    shards: Vec<(mpsc::Sender<ShardMessage>, Budget)>,
}

/// The budget of one shard.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    /// One permit a KiB.
    room: Arc<Semaphore>,
}

impl Budgets {
    pub(super) fn new(shards: &Shards) -> Self {
        Self { shards: shards.all().map(|shard| (shard.clone(), Budget::new())).collect() }
    }

    pub(super) fn of(&self, shard: &mpsc::Sender<ShardMessage>) -> Budget {
        let known = self.shards.iter().find(|(candidate, _)| candidate.same_channel(shard));
        known.map_or_else(Budget::new, |(_, budget)| budget.clone())
    }
}

impl Budget {
    fn new() -> Self {
        Self { room: Arc::new(Semaphore::new(BUDGET_KIB as usize)) }
    }

    /// Waits until there is room for `message`, if it is large. The room is free again when the last copy of what this
    /// returns is dropped.
    pub(super) async fn charge(&self, message: Bytes) -> Bytes {
        if message.len() < LARGE_MESSAGE_BYTES {
            return message;
        }
        // One that is larger than the whole budget takes all of it.
        let kib = u32::try_from(message.len().div_ceil(1 << 10)).unwrap_or(BUDGET_KIB).min(BUDGET_KIB);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await.expect("nobody closes the semaphore");
        Bytes::from_owner(Charged { message, _room: room })
    }
}

struct Charged {
    message: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_large_message_takes_room_until_it_is_dropped() {
        let budget = Budget::new();
        let message = Bytes::from(vec![7; 1 << 20]);

        let charged = budget.charge(message.clone()).await;
        assert_eq!(charged, message);
        assert_eq!(budget.room.available_permits(), 15 << 10);

        let copy = charged.clone();
        drop(charged);
        assert_eq!(budget.room.available_permits(), 15 << 10);
        drop(copy);
        assert_eq!(budget.room.available_permits(), 16 << 10);
    }

    #[tokio::test]
    async fn a_small_message_takes_none() {
        let budget = Budget::new();
        let _charged = budget.charge(Bytes::from(vec![7; LARGE_MESSAGE_BYTES - 1])).await;
        assert_eq!(budget.room.available_permits(), 16 << 10);
    }

    #[tokio::test]
    async fn one_larger_than_the_budget_takes_all_of_it() {
        let budget = Budget::new();
        let _charged = budget.charge(Bytes::from(vec![7; 17 << 20])).await;
        assert_eq!(budget.room.available_permits(), 0);
    }
}
