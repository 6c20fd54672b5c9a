//! `[target]`: where NATS lives, and credentials taken out of URLs at this edge.

use std::path::PathBuf;
use std::time::Duration;

use super::super::check::Check;
use super::super::model::{
    Auth, Embedded, Encryption, External, Stall, Stub, SyncInterval, Target, Tls,
};
use super::super::overlay::TARGET_KEYS;
use super::super::wire::{self, TargetKind};
use crate::secret::Secret;

const DEFAULT_SYNC: Duration = Duration::from_mins(2);

pub(super) fn convert(check: &mut Check<'_, '_>, wire: wire::Target) -> Target {
    let kind = check.choose("target.kind", wire.kind, TargetKind::Embedded);
    if wire.accounts.is_some_and(|n| n > 1) {
        check.later(
            "target.accounts",
            "more than one account",
            "write `accounts = 1` or take the key out",
        );
    }
    check.not_zero(
        "target.accounts",
        wire.accounts == Some(0),
        "write `accounts = 1` or take the key out",
    );
    let word = match kind {
        TargetKind::Embedded => "embedded",
        TargetKind::External => "external",
        TargetKind::Stub => "stub",
    };
    for (other, key) in TARGET_KEYS
        .iter()
        .filter(|(other, _)| *other != word)
        .flat_map(|(other, keys)| keys.iter().map(move |key| (other, key)))
    {
        let path = format!("target.{key}");
        if check.is_set(&path) {
            let article = if other.starts_with('e') { "an" } else { "a" };
            check.refuse(
                &[&path, "target.kind"],
                format!("`{path}` belongs to {article} {other} target, and this one is {word}"),
                format!("take `{key}` out, or write `kind = \"{other}\"` under [target]"),
            );
        }
    }
    match kind {
        TargetKind::Embedded => Target::Embedded(embedded(check, &wire)),
        TargetKind::External => Target::External(external(check, wire)),
        TargetKind::Stub => Target::Stub(stub(check, &wire)),
    }
}

fn stub(check: &mut Check<'_, '_>, wire: &wire::Target) -> Stub {
    let (length, every) = (wire.stall.map(|s| s.0.0), wire.stall_every.map(|s| s.0.0));
    let paths = ["target.stall", "target.stall_every"];
    for (path, span) in paths.into_iter().zip([length, every]) {
        check.not_zero(
            path,
            span == Some(Duration::ZERO),
            "write for example `stall = \"200ms\"` and `stall_every = \"2s\"`, or neither",
        );
    }
    let stall = match (length, every) {
        (None, None) => None,
        (Some(length), Some(every)) => {
            if length >= every && !every.is_zero() {
                check.refuse(
                    &paths,
                    format!(
                        "a stub that stands still for {} of every {} never acks",
                        check.written("target.stall", ""),
                        check.written("target.stall_every", "")
                    ),
                    "make `stall` shorter than `stall_every`",
                );
            }
            Some(Stall { length, every })
        }
        (Some(_), None) => {
            check.refuse(
                &paths,
                "`target.stall` says how long, and not how often",
                "write `stall_every = \"2s\"` as well, or take `stall` out",
            );
            None
        }
        (None, Some(_)) => {
            check.refuse(
                &paths,
                "`target.stall_every` says how often, and not how long",
                "write `stall = \"200ms\"` as well, or take `stall_every` out",
            );
            None
        }
    };
    Stub {
        delay: wire.delay.map_or(Duration::ZERO, |d| d.0.0),
        stall,
    }
}

fn embedded(check: &mut Check<'_, '_>, wire: &wire::Target) -> Embedded {
    let servers = wire.servers.unwrap_or(1);
    if !matches!(servers, 1 | 3) {
        check.refuse(
            &["target.servers", "target.kind"],
            format!("{servers} embedded servers"),
            "write `servers = 1` or `servers = 3`; other numbers need an external target",
        );
    }
    if let Some(cpus) = wire.cpus
        && !(cpus > 0.0 && cpus.is_finite())
    {
        check.refuse(
            &["target.cpus"],
            format!("{cpus} CPUs per server"),
            "write a number above zero, for example `cpus = 1.0`, or take the key out",
        );
    }
    let memory_bytes = wire.memory.map(|m| m.0.0);
    check.not_zero(
        "target.memory",
        memory_bytes == Some(0),
        "write for example `memory = \"2GiB\"`, or take the key out",
    );
    let sync_interval = wire
        .sync_interval
        .map_or(SyncInterval::Every(DEFAULT_SYNC), |s| s.0);
    check.not_zero(
        "target.sync_interval",
        sync_interval == SyncInterval::Every(Duration::ZERO),
        "write \"always\" to sync before each ack, or for example \"2m\"",
    );
    check.not_zero(
        "target.port",
        wire.port == Some(0),
        "take the key out: free ports are found",
    );
    Embedded {
        servers,
        cpus: wire.cpus,
        memory_bytes,
        sync_interval,
        store_dir: wire.store_dir.as_ref().map(PathBuf::from),
        encryption: check.choose("target.encryption", wire.encryption, Encryption::Off),
        port: wire.port,
    }
}

fn external(check: &mut Check<'_, '_>, wire: wire::Target) -> External {
    let mut auth = Auth {
        creds: wire.creds.map(PathBuf::from),
        user: wire.user,
        password: wire.password.map(Secret::new),
        token: wire.token.map(Secret::new),
        nkey: wire.nkey.map(Secret::new),
    };
    if auth.password.is_some() && auth.user.is_none() {
        check.refuse(
            &["target.password", "target.user"],
            "a password without a user",
            "write `user = \"…\"` as well, or use `token`",
        );
    }
    let set = ["creds", "user", "token", "nkey"].map(|key| format!("target.{key}"));
    let set: Vec<&str> = set
        .iter()
        .map(String::as_str)
        .filter(|p| check.is_set(p))
        .collect();
    if set.len() > 1 {
        check.refuse(
            &set,
            format!("several kinds of credentials: {}", set.join(", ")),
            "keep one of creds, user and password, token, nkey",
        );
    }
    let urls = wire.urls.unwrap_or_default();
    if urls.is_empty() && wire.context.is_none() {
        check.refuse(
            &["target.urls", "target.kind"],
            "an external target without an address",
            "write `urls = [\"nats://host:4222\"]` or `context = \"…\"`, or give --server",
        );
    }
    let mut clean = Vec::new();
    for url in urls {
        match split_url(&url) {
            Ok((address, found)) => {
                clean.push(address);
                if let Some(found) = found
                    && set.is_empty()
                {
                    auth = found;
                }
            }
            Err(why) => check.refuse(
                &["target.urls"],
                why,
                "write `nats://host:4222` or `tls://host:4222`",
            ),
        }
    }
    let monitor = wire.monitor.unwrap_or_default();
    for url in &monitor {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            check.refuse(
                &["target.monitor"],
                format!("`{url}` is not a monitoring URL"),
                "write for example `monitor = [\"http://host:8222\"]`",
            );
        }
    }
    External {
        urls: clean,
        context: wire.context,
        auth,
        tls: tls(check, wire.tls.unwrap_or_default()),
        monitor,
        allow_faults: wire.allow_faults.unwrap_or(false),
    }
}

fn tls(check: &mut Check<'_, '_>, wire: wire::Tls) -> Tls {
    if wire.cert.is_some() != wire.key.is_some() {
        check.refuse(
            &["target.tls.cert", "target.tls.key", "target.tls"],
            "a client certificate needs its key, and a key its certificate",
            "write both `cert` and `key`, or neither",
        );
    }
    Tls {
        ca: wire.ca.map(PathBuf::from),
        cert: wire.cert.map(PathBuf::from),
        key: wire.key.map(PathBuf::from),
        first: wire.first.unwrap_or(false),
    }
}

/// A server's address without credentials, and the credentials that were in it.
pub(in crate::scenario) fn split_url(url: &str) -> Result<(String, Option<Auth>), String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    let (userinfo, host) = match rest.rsplit_once('@') {
        Some((userinfo, host)) => (Some(userinfo), host),
        None => (None, rest),
    };
    let host = host.trim_end_matches('/');
    if !matches!(scheme, "nats" | "tls") {
        return Err(format!(
            "`{scheme}://{host}` is not the address of a NATS server"
        ));
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if name.is_empty() || host.contains(['/', ' ', '?']) {
        return Err(format!("`{scheme}://{host}` names no host"));
    }
    let auth = userinfo.map(|info| match info.split_once(':') {
        Some((user, password)) => Auth {
            user: Some(percent_decoded(user)),
            password: Some(Secret::new(percent_decoded(password))),
            ..Auth::default()
        },
        None => Auth {
            token: Some(Secret::new(percent_decoded(info))),
            ..Auth::default()
        },
    });
    Ok((format!("{scheme}://{host}"), auth))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_leave_the_url() {
        let (url, auth) = split_url("nats://me:p%40ss@host:4222").expect("valid");
        let auth = auth.expect("credentials");
        assert_eq!(url, "nats://host:4222");
        assert_eq!(auth.user.as_deref(), Some("me"));
        assert_eq!(auth.password.expect("password").expose(), "p@ss");
        let (_, auth) = split_url("tls://s3cret@host").expect("valid");
        assert_eq!(
            auth.expect("token").token.expect("token").expose(),
            "s3cret"
        );
        assert_eq!(
            split_url("host:4222"),
            Ok(("nats://host:4222".to_owned(), None))
        );
    }

    #[test]
    fn an_error_about_a_url_does_not_tell_its_secret() {
        let error = split_url("amqp://me:secret@host").expect_err("not NATS");
        assert!(!error.contains("secret"), "{error}");
        assert!(split_url("nats://").is_err());
    }
}
