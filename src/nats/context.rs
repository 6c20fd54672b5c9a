//! Contexts of the `nats` command line, read from `$XDG_CONFIG_HOME/nats/context/<name>.json`.
//!
//! Only reads, and only the context that is named: the one that `nats` has selected is never
//! taken, because the environment does not choose a target. Called by `target::external` and by
//! `cli`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::Engine as _;
use serde::Deserialize;

use super::endpoint::{self, Auth, Endpoint, Tls};
use crate::error::usage;
use crate::secret::Secret;

/// Looks up a variable of the environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A context file. What jsbench has no use for (description, colours, …) is skipped.
#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    url: String,
    socks_proxy: String,
    token: String,
    user: String,
    password: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
    nsc: String,
    jetstream_domain: String,
    jetstream_api_prefix: String,
    inbox_prefix: String,
    user_jwt: String,
    user_seed: String,
    tls_first: bool,
}

/// Reads a context by its name.
pub fn load(name: &str, env: Env<'_>) -> Result<Endpoint> {
    check_name(name)?;
    let directory = directory(env)?;
    let path = directory.join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            unknown(name, &directory, env)
        } else {
            usage(format!(
                "context {name}: {} cannot be read: {error}",
                path.display()
            ))
        }
    })?;
    read(&text, env).map_err(|why| usage(format!("context {name} ({}): {why}", path.display())))
}

/// Names of the contexts that are there, sorted; empty when there is no directory of contexts.
pub fn list_contexts(env: Env<'_>) -> Vec<String> {
    let entries = directory(env)
        .ok()
        .and_then(|path| std::fs::read_dir(path).ok());
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let json = path.extension().is_some_and(|e| e == "json") && path.is_file();
            json.then(|| path.file_stem()?.to_str().map(str::to_owned))?
        })
        .collect();
    names.sort();
    names
}

/// An nkey seed given as such or as the path of a file that holds one (`~` and `$VAR` expanded).
pub fn nkey_seed(value: &str, env: Env<'_>) -> Result<Secret, String> {
    if let Some(seed) = seed_in(value) {
        return Ok(Secret::new(seed));
    }
    // A mistyped seed must not be shown as if it were a path.
    let shown = if value.contains(['/', '.', '~', '$']) {
        format!("nkey file {value}")
    } else {
        "nkey is not a seed (SU…); as the path of a file it".to_owned()
    };
    let text = std::fs::read_to_string(expand(value, env)?)
        .map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let seed = seed_in(&text).ok_or_else(|| format!("{shown} holds no user seed (SU…)"))?;
    Ok(Secret::new(seed))
}

/// Expands a leading `~` and `$VAR` or `${VAR}`; a variable that is not set is an error.
pub fn expand(path: &str, env: Env<'_>) -> Result<PathBuf, String> {
    let lookup = |name: &str| {
        env(name).ok_or_else(|| format!("path {path} needs ${name}, which is not set"))
    };
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    if let Some(tail) = path.strip_prefix('~')
        && (tail.is_empty() || tail.starts_with('/'))
    {
        out.push_str(&lookup("HOME")?);
        rest = tail;
    }
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, tail) = match after.strip_prefix('{').and_then(|a| a.split_once('}')) {
            Some(braced) => braced,
            None => after.split_at(
                after
                    .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                    .unwrap_or(after.len()),
            ),
        };
        if name.is_empty() {
            out.push('$');
        } else {
            out.push_str(&lookup(name)?);
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(PathBuf::from(out))
}

fn check_name(name: &str) -> Result<()> {
    let wrong = name.is_empty()
        || name.contains("..")
        || name.contains(|c: char| c == '/' || c == '\\' || c.is_control());
    if wrong {
        return Err(usage(format!(
            "`{}` is not the name of a context: give a name as `nats context ls` shows it, not a path",
            name.escape_debug()
        )));
    }
    Ok(())
}

fn directory(env: Env<'_>) -> Result<PathBuf> {
    let config = match env("XDG_CONFIG_HOME").filter(|value| !value.is_empty()) {
        Some(value) => PathBuf::from(value),
        None => Path::new(&env("HOME").ok_or_else(|| {
            usage("neither XDG_CONFIG_HOME nor HOME is set, so there is no directory of contexts")
        })?)
        .join(".config"),
    };
    Ok(config.join("nats").join("context"))
}

fn unknown(name: &str, directory: &Path, env: Env<'_>) -> anyhow::Error {
    let known = list_contexts(env);
    let cure = if known.is_empty() {
        "there are none".to_owned()
    } else {
        format!("there are: {}", known.join(", "))
    };
    usage(format!(
        "context `{name}` is not in {}; {cure}",
        directory.display()
    ))
}

fn read(text: &str, env: Env<'_>) -> Result<Endpoint, String> {
    // Only the place of a syntax error is told: its text may quote a secret.
    let file: File = serde_json::from_str(text).map_err(|error| {
        format!(
            "not a context file: wrong JSON or a wrong type at line {}, column {}",
            error.line(),
            error.column()
        )
    })?;
    if !file.socks_proxy.is_empty() {
        return Err("socks_proxy is set, and jsbench measures without a proxy; \
                    give a server that can be reached directly"
            .to_owned());
    }
    if !file.nsc.is_empty() {
        return Err("nsc is set, and jsbench does not run nsc; \
                    export a file with `nsc generate creds` and set creds to it"
            .to_owned());
    }
    let url = match file.url.as_str() {
        "" => endpoint::DEFAULT_URL,
        url => url,
    };
    let (urls, in_url) = endpoint::parse_urls(url).map_err(|error| error.to_string())?;
    let auth = match auth(&file, env)? {
        Auth::None => in_url,
        auth => auth,
    };
    let path = |value: &str| -> Result<Option<PathBuf>, String> {
        if value.is_empty() {
            Ok(None)
        } else {
            expand(value, env).map(Some)
        }
    };
    let js_api_prefix = match (&*file.jetstream_api_prefix, &*file.jetstream_domain) {
        ("", "") => endpoint::DEFAULT_API_PREFIX.to_owned(),
        ("", domain) => endpoint::api_prefix(domain),
        (prefix, _) => prefix.trim_end_matches('.').to_owned(),
    };
    Ok(Endpoint {
        urls,
        auth,
        tls: Tls {
            ca: path(&file.ca)?,
            cert: path(&file.cert)?,
            key: path(&file.key)?,
            first: file.tls_first,
            required: false,
        },
        inbox_prefix: Some(file.inbox_prefix).filter(|prefix| !prefix.is_empty()),
        js_api_prefix,
        ..Endpoint::default()
    })
}

/// The credentials of a file; where it holds several kinds, `nats` takes them in this order too.
fn auth(file: &File, env: Env<'_>) -> Result<Auth, String> {
    if !file.user.is_empty() {
        return Ok(Auth::UserPassword {
            user: file.user.clone(),
            password: literal("password", &file.password, env)?,
        });
    }
    if !file.creds.is_empty() {
        return creds(&file.creds, env);
    }
    if !file.nkey.is_empty() {
        let seed = match reference("nkey", &file.nkey, env)? {
            Some(text) => seed_in(&text)
                .map(Secret::new)
                .ok_or("nkey holds no user seed (SU…)")?,
            None => nkey_seed(without_file_scheme(&file.nkey), env)?,
        };
        return Ok(Auth::NKey(seed));
    }
    if !file.user_jwt.is_empty() {
        return Ok(Auth::UserJwt {
            jwt: literal("user_jwt", &file.user_jwt, env)?,
            seed: match file.user_seed.as_str() {
                "" => None,
                seed => Some(literal("user_seed", seed, env)?),
            },
        });
    }
    if !file.token.is_empty() {
        return Ok(Auth::Token(literal("token", &file.token, env)?));
    }
    Ok(Auth::None)
}

/// `creds`: a path, or one of the references of [`reference`].
fn creds(value: &str, env: Env<'_>) -> Result<Auth, String> {
    Ok(match reference("creds", value, env)? {
        Some(text) => Auth::CredsText(Secret::new(text)),
        None => Auth::CredsFile(expand(without_file_scheme(value), env)?),
    })
}

/// A key whose value stands for itself unless it is a reference.
fn literal(key: &str, value: &str, env: Env<'_>) -> Result<Secret, String> {
    if value.starts_with("file://") {
        let path = expand(without_file_scheme(value), env)?;
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{key}: {} cannot be read: {error}", path.display()))?;
        return Ok(Secret::new(text.trim_end()));
    }
    let text = reference(key, value, env)?;
    Ok(Secret::new(text.as_deref().map_or(value, str::trim_end)))
}

/// What `env://NAME` or `data:;base64,…` stands for; `None` where the value is no reference.
fn reference(key: &str, value: &str, env: Env<'_>) -> Result<Option<String>, String> {
    if let Some(name) = value.strip_prefix("env://") {
        return env(name)
            .filter(|found| !found.is_empty())
            .map(Some)
            .ok_or_else(|| format!("{key} refers to ${name}, which is not set"));
    }
    if let Some(data) = value.strip_prefix("data:") {
        let wrong = || format!("{key} is not `data:;base64,` with valid base64 behind it");
        let (header, payload) = data.split_once(',').ok_or_else(wrong)?;
        if !header.split(';').any(|part| part.trim() == "base64") {
            return Err(wrong());
        }
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(payload.trim())
            .map_err(|_| wrong())?;
        return String::from_utf8(bytes).map(Some).map_err(|_| wrong());
    }
    for scheme in ["nsc://", "op://"] {
        if value.starts_with(scheme) {
            return Err(format!(
                "{key} begins with {scheme}, which jsbench cannot resolve; \
                 use a file path, env://NAME or data:;base64,…"
            ));
        }
    }
    Ok(None)
}

fn without_file_scheme(value: &str) -> &str {
    value.strip_prefix("file://").unwrap_or(value)
}

/// The first line that is a user seed.
fn seed_in(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| {
        line.len() == 58
            && line.starts_with("SU")
            && line.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'2'..=b'7'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = "SUAIO3FHUX5PNV2LQIIP7TZ3N4L7TX3W53MQGEIVYFIGA635OZCKEYHFLM";

    /// A configuration directory with contexts in it.
    fn contexts(files: &[(&str, &str)]) -> tempfile::TempDir {
        let home = tempfile::tempdir().expect("temporary directory");
        let directory = home.path().join("nats/context");
        std::fs::create_dir_all(&directory).expect("directory");
        for (name, text) in files {
            std::fs::write(directory.join(name), text).expect("file");
        }
        home
    }

    fn load_one(json: &str) -> Result<Endpoint, String> {
        let home = contexts(&[("one.json", json)]);
        let path = home.path().display().to_string();
        load("one", &|name| match name {
            "XDG_CONFIG_HOME" => Some(path.clone()),
            "HOME" => Some("/home/bob".to_owned()),
            "PKI" => Some("/pki".to_owned()),
            "PASS" => Some("hunter2".to_owned()),
            _ => None,
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn every_field_that_matters_is_read() {
        let endpoint = load_one(
            r#"{"description": "x", "url": "tls://a:1,b", "user": "u", "password": "env://PASS",
                "ca": "$PKI/ca.pem", "cert": "~/c.pem", "key": "${PKI}/k.pem", "tls_first": true,
                "inbox_prefix": "_MINE", "jetstream_domain": "hub", "color_scheme": ""}"#,
        )
        .expect("valid");
        assert_eq!(endpoint.urls, ["tls://a:1", "nats://b:4222"]);
        assert_eq!(
            endpoint.auth,
            Auth::UserPassword {
                user: "u".to_owned(),
                password: Secret::new("hunter2")
            }
        );
        assert_eq!(endpoint.tls.ca, Some(PathBuf::from("/pki/ca.pem")));
        assert_eq!(endpoint.tls.cert, Some(PathBuf::from("/home/bob/c.pem")));
        assert_eq!(endpoint.tls.key, Some(PathBuf::from("/pki/k.pem")));
        assert!(endpoint.tls.first);
        assert_eq!(endpoint.inbox_prefix.as_deref(), Some("_MINE"));
        assert_eq!(endpoint.js_api_prefix, "$JS.hub.API");
    }

    #[test]
    fn each_kind_of_credentials_is_read() {
        for (json, auth) in [
            ("{}", Auth::None),
            (r#"{"url": "nats://t@h"}"#, Auth::Token(Secret::new("t"))),
            (r#"{"token": "t"}"#, Auth::Token(Secret::new("t"))),
            (
                r#"{"creds": "~/a.creds"}"#,
                Auth::CredsFile("/home/bob/a.creds".into()),
            ),
            (
                r#"{"creds": "file:///a.creds"}"#,
                Auth::CredsFile("/a.creds".into()),
            ),
            (
                r#"{"creds": "data:;base64,aGk="}"#,
                Auth::CredsText(Secret::new("hi")),
            ),
            (
                r#"{"creds": "env://PASS"}"#,
                Auth::CredsText(Secret::new("hunter2")),
            ),
            (
                r#"{"user_jwt": "j", "user_seed": "s"}"#,
                Auth::UserJwt {
                    jwt: Secret::new("j"),
                    seed: Some(Secret::new("s")),
                },
            ),
        ] {
            assert_eq!(load_one(json).expect(json).auth, auth, "{json}");
        }
        let nkey = load_one(&format!(r#"{{"nkey": "{SEED}"}}"#)).expect("valid");
        assert_eq!(nkey.auth, Auth::NKey(Secret::new(SEED)));
        assert_eq!(nkey.urls, [endpoint::DEFAULT_URL]);
    }

    #[test]
    fn an_nkey_file_may_hold_more_than_the_seed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("user.nk");
        let none = |_: &str| None;
        std::fs::write(&path, format!("# mine\n{SEED}\n")).expect("file");
        let text = path.display().to_string();
        assert_eq!(nkey_seed(&text, &none), Ok(Secret::new(SEED)));
        std::fs::write(&path, "UAB\n").expect("file");
        assert!(nkey_seed(&text, &none).is_err_and(|e| e.contains("holds no user seed")));
        let mistyped = &SEED[..57];
        assert!(nkey_seed(mistyped, &none).is_err_and(|e| !e.contains(mistyped)));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_cure() {
        for (json, says) in [
            (r#"{"socks_proxy": "socks5://p"}"#, "reached directly"),
            (r#"{"nsc": "nsc://o/a/u"}"#, "nsc generate creds"),
            (r#"{"creds": "nsc://o/a/u"}"#, "creds begins with nsc://"),
            (
                r#"{"user": "u", "password": "op://v/i"}"#,
                "password begins with op://",
            ),
            (r#"{"creds": "env://NOPE"}"#, "$NOPE, which is not set"),
            (r#"{"creds": "$NOPE/x"}"#, "$NOPE, which is not set"),
            (r#"{"creds": "data:text,hunter2"}"#, "data:;base64,"),
            (r#"{"url": "ws://h"}"#, "WebSocket"),
            ("{\n \"password\": hunter2}", "line 2"),
            (r#"{"tls_first": "hunter2"}"#, "line 1"),
        ] {
            let error = load_one(json).expect_err(json);
            assert!(
                error.contains(says) && error.contains("one.json"),
                "{json}: {error}"
            );
            assert!(!error.contains("hunter2"), "{json}: {error}");
        }
    }

    #[test]
    fn an_unknown_context_lists_those_that_exist() {
        let home = contexts(&[("b.json", "{}"), ("a.json", "{}"), ("notes.txt", "")]);
        let path = home.path().display().to_string();
        let env = |name: &str| (name == "XDG_CONFIG_HOME").then(|| path.clone());
        assert_eq!(list_contexts(&env), ["a", "b"]);
        let error = load("c", &env).expect_err("unknown").to_string();
        assert!(error.contains("there are: a, b"), "{error}");
        for name in ["", "../a", "x/a", "a\\b", "a\n"] {
            let error = load(name, &env).expect_err(name).to_string();
            assert!(error.contains("not a path"), "{error}");
        }
    }
}
