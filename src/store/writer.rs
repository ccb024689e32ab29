//! The thread that writes. Everything that touches the disk after the start is here.

use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Body, Disk};
use super::error::is_corruption;
use super::op::SpoolId;
use super::pending::{Group, Load, Turn, body_in};
use super::{MAX_LOAD_BYTES, Shared};

/// The writer. Runs until the store is closed.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    disk: Disk,
    /// A group that could not be written yet.
    held: Option<Group>,
    salvages: u32,
    /// What the disk says of itself: that it has what was pushed.
    is_current: bool,
}

/// New databases that may be begun while the program runs. A disk that damages every one is not helped by more.
const MAX_SALVAGES: u32 = 3;

impl Writer {
    pub(super) const fn new(shared: Arc<Shared>, disk: Disk) -> Self {
        Self { shared, disk, held: None, salvages: 0, is_current: true }
    }

    pub(super) fn run(mut self) {
        // Whatever ends this thread, nobody waits for it any more.
        let ending = Ending(Arc::clone(&self.shared));
        loop {
            match self.shared.turn() {
                Turn::Load(loads) => self.answer(loads),
                Turn::Write(group) => self.write(group),
                Turn::Retry => {
                    let Some(group) = self.held.take() else { continue };
                    self.write(group);
                    if self.held.is_some() && self.shared.lock().is_closing() {
                        break;
                    }
                }
                Turn::Want => {
                    tracing::info!("asking for a full checkpoint, to have the state on disk again");
                    self.shared.publish();
                }
                Turn::Close => break,
            }
        }
        self.close();
        drop(ending);
    }

    fn write(&mut self, group: Group) {
        let begun = (self.shared.clock)().mono;
        let mut result = self.disk.write(&group.ops, &group.sums, &group.ids);
        if let Err(error) = &result
            && is_corruption(error)
            && self.salvages < MAX_SALVAGES
        {
            self.salvage(error);
            result = self.disk.write(&group.ops, &group.sums, &group.ids);
        }
        let now = (self.shared.clock)().mono;
        let took = std::time::Duration::from_nanos(now.since(begun));
        let mut pending = self.shared.lock();
        match result {
            Ok(()) => {
                let has_recovered = pending.written(&group, took);
                pending.journal_bytes = self.disk.journal_bytes();
                drop(pending);
                // The bodies of the group are freed out of the lock.
                drop(group);
                if has_recovered {
                    tracing::info!("the state directory works again: everything is on disk");
                }
            }
            Err(error) => {
                let is_news = pending.failed(error.to_string(), now);
                drop(pending);
                self.held = Some(group);
                if is_news {
                    let dir = self.shared.dir.display();
                    tracing::error!(%dir, %error, "cannot write the state directory: going on in memory, and trying again");
                }
            }
        }
        self.note_current();
        self.shared.publish();
    }

    /// Keeps on disk whether the disk is behind. Nobody waits for it then, so a restart must not go on from it.
    fn note_current(&mut self) {
        let is_current = !self.shared.lock().is_in_trouble();
        if is_current == self.is_current {
            return;
        }
        match self.disk.set_current(is_current) {
            Ok(()) => self.is_current = is_current,
            Err(error) => {
                tracing::error!(%error, is_current, "cannot note in the state directory whether it is current");
            }
        }
    }

    fn salvage(&mut self, error: &rusqlite::Error) {
        self.salvages += 1;
        match self.disk.salvage() {
            Ok(aside) => {
                self.shared.lock().damaged += 1;
                tracing::error!(%error, kept_as = %aside.display(), "the state database is damaged: went on with what could be read");
            }
            Err(failure) => {
                tracing::error!(%error, %failure, "the state database is damaged, and no other could be made");
            }
        }
    }

    fn answer(&mut self, loads: Vec<Load>) {
        for Load { ids, answer } in loads {
            let bodies = self.bodies(&ids);
            // Whoever asked may have gone.
            let _ = answer.send(bodies);
        }
    }

    /// The bodies of the first of `ids`, as many as may be loaded at once.
    fn bodies(&self, ids: &[SpoolId]) -> Vec<(SpoolId, Option<Bytes>)> {
        let (mut bodies, mut bytes) = (Vec::new(), 0);
        for id in ids {
            if bytes >= MAX_LOAD_BYTES {
                break;
            }
            let body = match self.disk.body(*id) {
                Ok(Body::Whole(body)) => Some(Bytes::from(body)),
                Ok(Body::Absent) => self.waiting_body(*id),
                Ok(Body::Damaged) => {
                    self.shared.lock().damaged += 1;
                    tracing::warn!(batch = id.0, "a batch on disk is damaged and cannot be sent");
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read batches from the state directory");
                    break;
                }
            };
            bytes += body.as_ref().map_or(0, Bytes::len);
            bodies.push((*id, body));
        }
        bodies
    }

    fn waiting_body(&self, id: SpoolId) -> Option<Bytes> {
        let held = self.held.as_ref().and_then(|group| body_in(&group.ops, id));
        held.or_else(|| self.shared.lock().body(id))
    }

    fn close(self) {
        let lost = self.shared.lock().abandon(self.held.as_ref());
        if lost > 0 {
            tracing::error!(ops = lost, "the state directory could not be written before the end");
        }
        if let Err(error) = self.disk.close() {
            tracing::warn!(%error, "the state database could not be closed; the next start puts it right");
        }
    }
}

struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.lock().end();
        self.0.publish();
        self.0.ended.send_replace(true);
    }
}
