//! What protects the worker port, read from files: a certificate with its key, a CA for the workers' certificates, a
//! token.
//!
//! The files are read at the start, where anything wrong with them stops it, and again every [`READ_AGAIN`]. What has
//! changed and is sound counts for connections and requests from then on. What has changed and is broken does not: the
//! bridge goes on with what it had, and says so once. A certificate and its key cannot be replaced in one instant, so
//! that broken files are only complained about when they are found so twice.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use sha2::{Digest as _, Sha256};

use super::tls::{self, ClientId};
use crate::token::Token;

/// How often the files are looked at. They are small, and a renewed certificate has days.
pub const READ_AGAIN: Duration = Duration::from_secs(2);

/// Bytes of a file; a bundle of all public CAs has a quarter of it.
pub const MAX_CREDENTIAL_BYTES: u64 = 1 << 20;

/// The files that protect the worker port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// For TLS; without it the port speaks plain text.
    pub tls: Option<TlsFiles>,
    /// Holds the token that requests must have.
    pub token: Option<PathBuf>,
}

/// The files of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The bridge's certificate, followed by its intermediates.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Of the workers' certificates; without it none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Which field of theirs binds worker ids.
    pub client_id: ClientId,
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// [`TlsFiles::certificate`].
    Certificate,
    /// [`TlsFiles::key`].
    Key,
    /// [`TlsFiles::client_ca`].
    ClientCa,
    /// [`CredentialFiles::token`].
    Token,
}

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}`: {reason}", path.display())]
pub struct FileError {
    /// What it should have been.
    pub role: Role,
    /// Where it is.
    pub path: PathBuf,
    /// Why not. Nothing of what stands in the file.
    pub reason: String,
}

/// What protects the worker port now. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    tls: Option<(Arc<Kept<ServerConfig>>, ClientId)>,
    token: Option<Arc<Kept<Token>>>,
}

impl Credentials {
    /// Reads the files.
    ///
    /// # Errors
    /// When one or more cannot be used: all of them, at once.
    pub fn load(files: CredentialFiles) -> Result<Self, Vec<FileError>> {
        let CredentialFiles { tls, token } = files;
        let tls = tls.map(|files| {
            let client_id = files.client_id;
            Kept::load("certificate of the worker port", move || read_tls(&files))
                .map(|kept| (kept, client_id))
        });
        let token = token.map(|path| Kept::load("token of the worker port", move || read_token(&path)));
        match (tls.transpose(), token.transpose()) {
            (Ok(tls), Ok(token)) => Ok(Self { tls, token }),
            (tls, token) => Err(tls.err().into_iter().chain(token.err()).collect()),
        }
    }

    /// For the next connection; `None` if the port speaks plain text.
    pub(super) fn tls(&self) -> Option<(Arc<ServerConfig>, ClientId)> {
        self.tls.as_ref().map(|(kept, client_id)| (kept.current(), *client_id))
    }

    /// For the next request; `None` if none is asked for.
    pub(super) fn token(&self) -> Option<Arc<Token>> {
        self.token.as_ref().map(|kept| kept.current())
    }

    /// Reads the files again and again, for ever.
    pub(super) async fn keep_fresh(self) {
        if self.tls.is_none() && self.token.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(READ_AGAIN).await;
            let credentials = self.clone();
            // Away from the runtime's threads: the files may be on a network that hangs.
            let looked = tokio::task::spawn_blocking(move || credentials.look()).await;
            if let Err(error) = looked {
                tracing::error!(%error, "failed to look at the credentials of the worker port");
            }
        }
    }

    fn look(&self) {
        if let Some((kept, _)) = &self.tls {
            kept.look().tell(kept.what);
        }
        if let Some(kept) = &self.token {
            kept.look().tell(kept.what);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------

/// What was made of some files, and is made anew when they change.
struct Kept<T> {
    what: &'static str,
    read: Box<dyn Fn() -> Reading<T> + Send + Sync>,
    /// What counts. Held for one clone or one assignment.
    current: RwLock<Arc<T>>,
    /// What the last looks found; only [`Kept::look`] takes it.
    seen: Mutex<Seen>,
}

/// One look at the files.
struct Reading<T> {
    /// Of everything that was read.
    digest: [u8; 32],
    made: Result<T, FileError>,
}

#[derive(Debug)]
struct Seen {
    /// What counts was made of this.
    in_force: [u8; 32],
    /// Something broken, and whether that was said.
    broken: Option<([u8; 32], bool)>,
}

/// What a look at the files came to.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// They are what they were.
    Unchanged,
    /// They have changed, and what they say counts from now on.
    Renewed,
    /// They have changed to something broken, perhaps for this instant only.
    Unsure,
    /// They are still broken. This is said once.
    Broken(FileError),
}

impl<T> Kept<T> {
    fn load(
        what: &'static str,
        read: impl Fn() -> Reading<T> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, FileError> {
        let Reading { digest, made } = read();
        Ok(Arc::new(Self {
            what,
            read: Box::new(read),
            current: RwLock::new(Arc::new(made?)),
            seen: Mutex::new(Seen { in_force: digest, broken: None }),
        }))
    }

    fn current(&self) -> Arc<T> {
        // A clone or an assignment of an `Arc` does not panic half-way.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn look(&self) -> Look {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Reading { digest, made } = (self.read)();
        if digest == seen.in_force {
            seen.broken = None;
            return Look::Unchanged;
        }
        match made {
            Ok(made) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(made);
                *seen = Seen { in_force: digest, broken: None };
                Look::Renewed
            }
            Err(error) => match seen.broken {
                Some((known, true)) if known == digest => Look::Unchanged,
                Some((known, false)) if known == digest => {
                    seen.broken = Some((digest, true));
                    Look::Broken(error)
                }
                Some(_) | None => {
                    seen.broken = Some((digest, false));
                    Look::Unsure
                }
            },
        }
    }
}

impl Look {
    fn tell(&self, what: &str) {
        match self {
            Self::Unchanged => {}
            Self::Renewed => tracing::info!("the {what} was read again"),
            Self::Unsure => tracing::debug!("the {what} has changed and cannot be used; looking again"),
            Self::Broken(error) => {
                tracing::warn!(%error, "the {what} has changed and cannot be used; the one before still counts");
            }
        }
    }
}

/// Leaves out what is secret.
impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("what", &self.what).finish_non_exhaustive()
    }
}

fn read_tls(files: &TlsFiles) -> Reading<ServerConfig> {
    let TlsFiles { certificate, key, client_ca, client_id: _ } = files;
    let mut roles = vec![(Role::Certificate, certificate), (Role::Key, key)];
    roles.extend(client_ca.as_ref().map(|path| (Role::ClientCa, path)));
    read(&roles, |contents| {
        tls::server_config(&contents[0], &contents[1], contents.get(2).map(Vec::as_slice))
    })
}

fn read_token(path: &PathBuf) -> Reading<Token> {
    read(&[(Role::Token, path)], |contents| {
        let text = String::from_utf8_lossy(&contents[0]);
        Token::new(text.trim()).map_err(|error| (Role::Token, error.to_string()))
    })
}

/// Reads all files, and makes something of their contents, which are in the same order.
fn read<T>(
    files: &[(Role, &PathBuf)],
    make: impl FnOnce(&[Vec<u8>]) -> Result<T, (Role, String)>,
) -> Reading<T> {
    let mut digest = Sha256::new();
    let mut contents = Vec::with_capacity(files.len());
    let mut failed = None;
    for (role, path) in files {
        match read_file(path) {
            Ok(bytes) => {
                digest.update(bytes.len().to_le_bytes());
                digest.update(&bytes);
                contents.push(bytes);
            }
            Err(reason) => {
                digest.update(&reason);
                failed = failed.or(Some((*role, reason)));
            }
        }
    }
    let made = match failed {
        Some(failed) => Err(failed),
        None => make(&contents),
    };
    let made = made.map_err(|(role, reason)| {
        let path = files.iter().find(|(of, _)| *of == role).map(|(_, path)| (*path).clone());
        FileError { role, path: path.unwrap_or_default(), reason }
    });
    Reading { digest: digest.finalize().into(), made }
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_CREDENTIAL_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_CREDENTIAL_BYTES {
        return Err(format!("it is larger than {MAX_CREDENTIAL_BYTES} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_is_said_once_and_only_if_it_stays_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("first");
        let of = path.clone();
        let kept = Kept::load("token", move || read_token(&of)).unwrap();
        let is = |token: &[u8]| kept.current().matches(token);
        assert_eq!(kept.look(), Look::Unchanged);

        write("");
        assert_eq!(kept.look(), Look::Unsure);
        assert!(matches!(kept.look(), Look::Broken(FileError { role: Role::Token, .. })));
        assert_eq!(kept.look(), Look::Unchanged);
        assert!(is(b"first"));

        std::fs::remove_file(&path).unwrap();
        assert_eq!(kept.look(), Look::Unsure, "broken in another way");
        write("second");
        assert_eq!(kept.look(), Look::Renewed);
        assert!(is(b"second") && !is(b"first"));

        write("");
        assert_eq!(kept.look(), Look::Unsure);
        write("second");
        assert_eq!(kept.look(), Look::Unchanged, "for an instant only");
        write("");
        assert_eq!(kept.look(), Look::Unsure);
        assert!(matches!(kept.look(), Look::Broken(_)), "broken anew");
    }
}
