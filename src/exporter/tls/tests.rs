//! What is said of files that cannot be used.

use super::*;
use crate::exporter::tests::pki::{Authority, Files};

fn refused(files: &TlsFiles) -> String {
    PeerTls::new(files, &[]).unwrap_err().to_string()
}

#[test]
fn each_problem_names_its_file() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let folder = files.folder().display().to_string();
    let issued = authority.issue(&["a-bridge"]);
    let ca = |path: PathBuf| TlsFiles { ca: Some(path), client: None };
    let trusted = files.trusting(&authority).ca;
    let client = |certificate: PathBuf, key: PathBuf| TlsFiles {
        ca: trusted.clone(),
        client: Some(ClientFiles { certificate, key }),
    };
    let certificate = || files.write("client.pem", &issued.certificate);
    let key = |text: &str| files.write("client.key", text);

    for (files, expected) in [
        (
            ca(files.path("none")),
            "read the CA certificates \"{}/none\": No such file or directory (os error 2)",
        ),
        (ca(files.folder().to_owned()), "read the CA certificates \"{}\": Is a directory (os error 21)"),
        (
            ca(files.write("a", "no PEM")),
            "use the CA certificates \"{}/a\": there is no PEM certificate in it",
        ),
        (
            ca(files.write("b", &issued.key)),
            "use the CA certificates \"{}/b\": there is no PEM certificate in it",
        ),
        (
            ca(files.write("c", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
            "use the CA certificates \"{}/c\": certificate 1: invalid peer certificate: BadEncoding",
        ),
        (
            client(files.write("d", &issued.key), key(&issued.key)),
            "use the client certificate \"{}/d\": there is no PEM certificate in it",
        ),
        (
            client(certificate(), files.path("none.key")),
            "read the client key \"{}/none.key\": No such file or directory (os error 2)",
        ),
        (
            client(certificate(), files.write("e", &issued.certificate)),
            "use the client key \"{}/e\": there is no PEM private key in it",
        ),
        (
            client(
                certificate(),
                files.write(
                    "f",
                    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                ),
            ),
            "use the client key \"{}/f\": it is encrypted; a key without passphrase is needed",
        ),
        (
            client(certificate(), files.write("g", &authority.issue(&["other"]).key)),
            "use the client certificate \"{}/client.pem\": the key \"{}/g\" does not belong to it",
        ),
    ] {
        assert_eq!(refused(&files), expected.replace("{}", &folder));
    }
}

#[test]
fn a_file_that_is_written_anew_with_the_same_contents_is_no_change() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let settings = files.trusting(&authority);
    let tls = PeerTls::new(&settings, &[]).unwrap();
    let before = tls.config();
    files.trusting(&authority);
    assert!(!tls.read_again());
    assert!(Arc::ptr_eq(&before, &tls.config()));
    files.trusting(&Authority::new("another"));
    assert!(tls.read_again());
    assert!(!Arc::ptr_eq(&before, &tls.config()));
}

#[test]
fn the_log_hears_once_of_each_thing_that_is_wrong() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let tls = PeerTls::new(&files.trusting(&authority), &[]).unwrap();
    let complaint = || tls.state().complaint.clone();
    files.write("ca.pem", "junk");
    assert!(!tls.read_again());
    let first = complaint().unwrap();
    assert!(first.ends_with("there is no PEM certificate in it"), "{first}");
    std::fs::remove_file(files.path("ca.pem")).unwrap();
    assert!(!tls.read_again());
    assert!(complaint().unwrap().starts_with("read the CA certificates"));
    files.trusting(&authority);
    assert!(!tls.read_again());
    assert_eq!(complaint(), None);
}

#[test]
fn a_file_beyond_the_limit_is_refused_and_not_cut() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let settings = files.trusting(&authority);
    let mut pem = std::fs::read(files.path("ca.pem")).unwrap();
    pem.resize(usize::try_from(MAX_PEM_BYTES).unwrap(), b'\n');
    std::fs::write(files.path("ca.pem"), &pem).unwrap();
    assert!(PeerTls::new(&settings, &[]).is_ok());
    pem.push(b'\n');
    std::fs::write(files.path("ca.pem"), &pem).unwrap();
    assert!(refused(&settings).ends_with("it is larger than 4194304 bytes"));
}

#[tokio::test]
async fn only_one_thread_at_a_time_reads_the_files() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let tls = Arc::new(PeerTls::new(&files.trusting(&authority), &[]).unwrap());
    files.trusting(&Authority::new("another"));
    let at = |times: u32| Monotonic(0).after(RECHECK_INTERVAL * times);
    let hung = Reading(Arc::clone(&tls));
    tls.is_reading.store(true, Ordering::Release);
    assert!(!tls.refresh(at(1)).await, "another look hangs");
    drop(hung);
    assert!(tls.refresh(at(2)).await);
    files.trusting(&authority);
    assert!(tls.refresh(at(3)).await, "the last look is over");
}
