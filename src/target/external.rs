//! Servers that jsbench did not start: which ones a scenario and a command line mean, and who we
//! are to them.
//!
//! Glue from the scenario's external target to a [`nats::endpoint::Endpoint`]; opens no connection.
//! Called by `cli` and `engine` before anything is started.
//!
//! The parts of a target come from, first to last: flags, the scenario's keys, the scenario's
//! context, and `NATS_CREDS`, `NATS_USER`, … for what is still open. A context on the command line
//! takes the place of all that the scenario says of its target, because the scenario's credentials
//! were not meant for that context's servers. The environment never chooses the servers.

use std::path::PathBuf;

use anyhow::Result;

use crate::error::usage;
use crate::nats::context::{self, Env};
use crate::nats::endpoint::{self, Auth, Endpoint, Tls};
use crate::nats::monitor;
use crate::scenario::model;
use crate::secret::Secret;

/// What the command line says of the target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExternalOverrides {
    /// `--server`, each a URL or a comma list of them.
    pub servers: Vec<String>,
    /// `--context`.
    pub context: Option<String>,
    /// `--creds`, `--user`, `--password`, `--token`, `--nkey`.
    pub auth: model::Auth,
    /// `--tlsca`, `--tlscert`, `--tlskey`.
    pub tls: model::Tls,
    /// `--monitor`, each a URL or a comma list of them.
    pub monitor: Vec<String>,
    /// `--allow-remote`.
    pub allow_remote: bool,
}

impl ExternalOverrides {
    /// The command line names the target, which makes it external whatever the scenario says.
    pub fn names_target(&self) -> bool {
        !self.servers.is_empty() || self.context.is_some()
    }
}

/// An external target that may be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Where to connect and as whom.
    pub endpoint: Endpoint,
    /// Base URLs of HTTP monitoring, without a trailing slash.
    pub monitors: Vec<String>,
    /// Name of the context that took part.
    pub context: Option<String>,
}

/// Credentials from one place; at most one kind.
#[derive(Default)]
struct Level {
    auth: Auth,
    /// A password that stands without a user, for the user of another level.
    password: Option<Secret>,
    tls: Tls,
}

impl Level {
    fn of(auth: Auth, tls: Tls) -> Self {
        Self {
            auth,
            password: None,
            tls,
        }
    }

    fn password_without_user(&self) -> bool {
        self.password.is_some() && !matches!(self.auth, Auth::UserPassword { .. })
    }
}

/// Finds out which servers are meant and with which credentials, and refuses servers on other
/// machines that nobody named on the command line.
pub fn resolve(
    external: &model::External,
    cli: &ExternalOverrides,
    env: Env<'_>,
) -> Result<Resolved> {
    let context = cli.context.as_ref().or(external.context.as_ref()).cloned();
    let mut endpoint = match &context {
        Some(name) => context::load(name, env)?,
        None => Endpoint {
            urls: Vec::new(),
            ..Endpoint::default()
        },
    };
    let (urls, in_url) = urls(external, cli, &endpoint)?;

    let flags = level("the command line", &cli.auth, &cli.tls, env)?;
    if in_url != Auth::None && flags.auth != Auth::None && !cli.servers.is_empty() {
        return Err(usage(format!(
            "the command line gives credentials twice: {} in the URL and {} as a flag; keep one",
            in_url.describe(),
            flags.auth.describe()
        )));
    }
    let mut levels = vec![flags, Level::of(in_url, Tls::default())];
    if cli.context.is_none() {
        let (auth, tls) = (&external.auth, &external.tls);
        levels.push(level("the scenario's target", auth, tls, env)?);
    }
    levels.push(Level::of(endpoint.auth, endpoint.tls));
    let lonely = levels.iter().any(Level::password_without_user);
    let open = levels.iter().all(|level| level.auth == Auth::None);
    levels.push(environment_level(open, env)?);

    endpoint.auth = first_auth(&levels);
    endpoint.tls = merged_tls(&levels);
    if lonely && !matches!(endpoint.auth, Auth::UserPassword { .. }) {
        return Err(usage(
            "a password is given without a user: give --user as well, or target.user",
        ));
    }
    endpoint.urls = urls;
    if !(endpoint.is_loopback() || cli.names_target() || cli.allow_remote) {
        return Err(usage(format!(
            "target {} is not on this machine, and jsbench puts load on other machines only when \
             told to: name it with --server or --context on the command line, or give \
             --allow-remote",
            endpoint.redacted()
        )));
    }
    let monitors = monitors(external, cli, &endpoint.urls)?;
    Ok(Resolved {
        endpoint,
        monitors,
        context,
    })
}

/// The URLs and the credentials in them.
fn urls(
    external: &model::External,
    cli: &ExternalOverrides,
    context: &Endpoint,
) -> Result<(Vec<String>, Auth)> {
    if !cli.servers.is_empty() {
        endpoint::parse_urls(&cli.servers.join(","))
    } else if cli.context.is_none() && !external.urls.is_empty() {
        endpoint::parse_urls(&external.urls.join(","))
    } else if !context.urls.is_empty() {
        Ok((context.urls.clone(), Auth::None))
    } else {
        Err(usage(
            "the external target names no server: set target.urls or target.context in the \
             scenario, or give --server or --context",
        ))
    }
}

/// The monitoring URLs. They go with their servers: the scenario's are left out when the command
/// line names other servers than the scenario does, for they would tell of the wrong ones.
fn monitors(
    external: &model::External,
    cli: &ExternalOverrides,
    urls: &[String],
) -> Result<Vec<String>> {
    let list = if !cli.monitor.is_empty() {
        cli.monitor.as_slice()
    } else if cli.names_target() && !same_servers(&external.urls, urls) {
        &[]
    } else {
        external.monitor.as_slice()
    };
    list.iter()
        .flat_map(|urls| urls.split(','))
        .map(monitor::parse_base)
        .collect()
}

fn same_servers(scenario: &[String], urls: &[String]) -> bool {
    endpoint::parse_urls(&scenario.join(",")).is_ok_and(|(scenario, _)| {
        scenario.len() == urls.len() && scenario.iter().all(|url| urls.contains(url))
    })
}

/// Credentials and TLS as flags or scenario keys say them.
fn level(place: &str, auth: &model::Auth, tls: &model::Tls, env: Env<'_>) -> Result<Level> {
    let wrong = |why: String| usage(format!("{place}: {why}"));
    let path = |path: &Option<PathBuf>| -> Result<Option<PathBuf>> {
        path.as_ref()
            .map(|path| match path.to_str() {
                Some(text) => context::expand(text, env).map_err(wrong),
                None => Ok(path.clone()),
            })
            .transpose()
    };
    let mut kinds: Vec<(&str, Auth)> = Vec::new();
    if let Some(creds) = path(&auth.creds)? {
        kinds.push(("creds", Auth::CredsFile(creds)));
    }
    if let Some(user) = &auth.user {
        let password = auth.password.clone().unwrap_or_else(|| Secret::new(""));
        let user = user.clone();
        kinds.push(("user", Auth::UserPassword { user, password }));
    }
    if let Some(token) = &auth.token {
        kinds.push(("token", Auth::Token(token.clone())));
    }
    if let Some(nkey) = &auth.nkey {
        let seed = context::nkey_seed(nkey.expose(), env).map_err(wrong)?;
        kinds.push(("nkey", Auth::NKey(seed)));
    }
    if kinds.len() > 1 {
        let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
        return Err(wrong(format!(
            "{} are different kinds of credentials; keep one of them",
            names.join(" and ")
        )));
    }
    Ok(Level {
        auth: kinds.pop().map(|(_, auth)| auth).unwrap_or_default(),
        password: auth.password.clone(),
        tls: Tls {
            ca: path(&tls.ca)?,
            cert: path(&tls.cert)?,
            key: path(&tls.key)?,
            first: tls.first,
            required: false,
        },
    })
}

/// The variables of the environment that may fill what is open. `NATS_URL` and `NATS_CONTEXT` are
/// not among them: the environment does not choose a target. Without `open` the kind of the
/// credentials is settled and only a password may be missing.
fn environment_level(open: bool, env: Env<'_>) -> Result<Level> {
    let text = |name: &str| env(name).filter(|value| !value.is_empty());
    let secret = |name: &str| text(name).map(Secret::new);
    let path = |name: &str| text(name).map(PathBuf::from);
    let mut auth = model::Auth {
        user: text("NATS_USER"),
        password: secret("NATS_PASSWORD"),
        ..model::Auth::default()
    };
    if open {
        auth.creds = path("NATS_CREDS");
        auth.token = secret("NATS_TOKEN");
        auth.nkey = secret("NATS_NKEY");
    }
    let tls = model::Tls {
        ca: path("NATS_CA"),
        cert: path("NATS_CERT"),
        key: path("NATS_KEY"),
        first: false,
    };
    level("the environment (NATS_…)", &auth, &tls, env)
}

/// The first level with credentials decides their kind. Its user's open password is filled by a
/// later level that has a password for the same user or for any.
fn first_auth(levels: &[Level]) -> Auth {
    let Some(at) = levels.iter().position(|level| level.auth != Auth::None) else {
        return Auth::None;
    };
    let Auth::UserPassword { user, password } = &levels[at].auth else {
        return levels[at].auth.clone();
    };
    // A password given before its user, such as `--password` for the user of a context, wins.
    let before = levels[..at].iter().find_map(|level| level.password.clone());
    let open = password.expose().is_empty();
    let after = levels[at + 1..].iter().find_map(|level| match &level.auth {
        Auth::UserPassword { user: u, password } if u == user => Some(password.clone()),
        Auth::None => level.password.clone(),
        _ => None,
    });
    Auth::UserPassword {
        user: user.clone(),
        password: before
            .or_else(|| after.filter(|_| open))
            .unwrap_or_else(|| password.clone()),
    }
}

/// Each part from the first level that has it; certificate and key belong together.
fn merged_tls(levels: &[Level]) -> Tls {
    let pair = levels
        .iter()
        .map(|level| &level.tls)
        .find(|tls| tls.cert.is_some() || tls.key.is_some());
    Tls {
        ca: levels.iter().find_map(|level| level.tls.ca.clone()),
        cert: pair.and_then(|tls| tls.cert.clone()),
        key: pair.and_then(|tls| tls.key.clone()),
        first: levels.iter().any(|level| level.tls.first),
        required: levels.iter().any(|level| level.tls.required),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external(urls: &[&str]) -> model::External {
        model::External {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            ..model::External::default()
        }
    }

    fn flags(servers: &[&str]) -> ExternalOverrides {
        ExternalOverrides {
            servers: servers.iter().map(|url| (*url).to_owned()).collect(),
            ..ExternalOverrides::default()
        }
    }

    fn user(name: &str, password: Option<&str>) -> model::Auth {
        model::Auth {
            user: Some(name.to_owned()),
            password: password.map(Secret::new),
            ..model::Auth::default()
        }
    }

    fn token(text: &str) -> model::Auth {
        model::Auth {
            token: Some(Secret::new(text)),
            ..model::Auth::default()
        }
    }

    fn user_password(user: &str, password: &str) -> Auth {
        Auth::UserPassword {
            user: user.to_owned(),
            password: Secret::new(password),
        }
    }

    fn with_env(
        external: &model::External,
        cli: &ExternalOverrides,
        env: &[(&str, &str)],
    ) -> Result<Resolved, String> {
        resolve(external, cli, &|name| {
            let found = env.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_never_chooses_the_target() {
        let env = [
            ("NATS_URL", "nats://10.0.0.9"),
            ("NATS_CONTEXT", "prod"),
            ("NATS_TOKEN", "t"),
        ];
        let error = with_env(&external(&[]), &flags(&[]), &env).expect_err("no server");
        assert!(error.contains("names no server"), "{error}");
        let resolved = with_env(&external(&["localhost"]), &flags(&[]), &env).expect("valid");
        assert_eq!(resolved.endpoint.urls, ["nats://localhost:4222"]);
        assert_eq!(resolved.endpoint.auth, Auth::Token(Secret::new("t")));
        assert_eq!(resolved.context, None);
    }

    #[test]
    fn another_machine_must_be_named_on_the_command_line_or_allowed() {
        let scenario = external(&["nats://10.0.0.9"]);
        let refused = resolve(&scenario, &flags(&[]), &|_| None).expect_err("remote");
        assert!(matches!(
            refused.downcast_ref(),
            Some(crate::error::Failure::Usage(text))
                if text.contains("nats://10.0.0.9:4222") && text.contains("--allow-remote")
        ));
        let mut allowed = flags(&[]);
        allowed.allow_remote = true;
        assert!(with_env(&scenario, &allowed, &[]).is_ok());
        assert!(with_env(&scenario, &flags(&["10.0.0.9"]), &[]).is_ok());
        let one_remote = external(&["localhost", "10.0.0.9"]);
        assert!(with_env(&one_remote, &flags(&[]), &[]).is_err());
    }

    #[test]
    fn flags_come_before_keys_before_the_environment() {
        let mut scenario = external(&["localhost"]);
        scenario.auth = user("bob", None);
        let env = [("NATS_PASSWORD", "p"), ("NATS_NKEY", "/nowhere")];
        let auth = |cli: &ExternalOverrides, env: &[(&str, &str)]| {
            with_env(&scenario, cli, env).expect("valid").endpoint.auth
        };
        assert_eq!(auth(&flags(&[]), &env), user_password("bob", "p"));
        assert_eq!(
            auth(&flags(&[]), &[("NATS_USER", "eve"), ("NATS_PASSWORD", "p")]),
            user_password("bob", ""),
            "another user's password stays where it is"
        );
        let mut cli = flags(&[]);
        cli.auth.password = Some(Secret::new("q"));
        assert_eq!(auth(&cli, &env), user_password("bob", "q"));
        cli.auth = token("t");
        assert_eq!(auth(&cli, &env), Auth::Token(Secret::new("t")));
        assert_eq!(
            auth(&flags(&["u:v@localhost"]), &env),
            user_password("u", "v")
        );
    }

    #[test]
    fn contradictions_are_refused() {
        let scenario = external(&["localhost"]);
        let mut twice = flags(&["hunter2@localhost"]);
        twice.auth = user("bob", Some("hunter2"));
        let mut kinds = flags(&[]);
        kinds.auth = model::Auth {
            token: Some(Secret::new("hunter2")),
            ..user("bob", None)
        };
        let mut lonely = flags(&[]);
        lonely.auth.password = Some(Secret::new("hunter2"));
        let env = [("NATS_CREDS", "/a.creds"), ("NATS_TOKEN", "hunter2")];
        for (cli, env, says) in [
            (&twice, &[][..], "credentials twice"),
            (&kinds, &[], "user and token are different kinds"),
            (&lonely, &[], "without a user"),
            (&flags(&[]), &env, "creds and token"),
        ] {
            let error = with_env(&scenario, cli, env).expect_err(says);
            assert!(
                error.contains(says) && !error.contains("hunter2"),
                "{error}"
            );
        }
        let mut settled = flags(&[]);
        settled.auth = token("t");
        assert!(with_env(&scenario, &settled, &env).is_ok());
    }

    #[test]
    fn a_context_on_the_command_line_takes_the_scenarios_place() {
        let home = tempfile::tempdir().expect("temporary directory");
        let directory = home.path().join("nats/context");
        std::fs::create_dir_all(&directory).expect("directory");
        let text = r#"{"url": "nats://10.0.0.9", "user": "u", "password": "v", "ca": "/c.pem"}"#;
        std::fs::write(directory.join("prod.json"), text).expect("file");
        let path = home.path().display().to_string();
        let env = [("XDG_CONFIG_HOME", path.as_str())];

        let mut scenario = external(&["localhost"]);
        scenario.auth = token("t");
        scenario.monitor = vec!["http://localhost:8222".to_owned()];
        let mut cli = flags(&[]);
        cli.context = Some("prod".to_owned());
        let resolved = with_env(&scenario, &cli, &env).expect("valid");
        assert_eq!(resolved.endpoint.urls, ["nats://10.0.0.9:4222"]);
        assert_eq!(resolved.endpoint.auth, user_password("u", "v"));
        assert_eq!(resolved.endpoint.tls.ca, Some("/c.pem".into()));
        assert_eq!(resolved.monitors, Vec::<String>::new());
        assert_eq!(resolved.context.as_deref(), Some("prod"));

        // The scenario's own context only fills what its keys leave open.
        scenario.context = Some("prod".to_owned());
        let resolved = with_env(&scenario, &flags(&[]), &env).expect("valid");
        assert_eq!(resolved.endpoint.urls, ["nats://localhost:4222"]);
        assert_eq!(resolved.endpoint.auth, Auth::Token(Secret::new("t")));
        assert_eq!(resolved.endpoint.tls.ca, Some("/c.pem".into()));

        // A remote context of the scenario is not named on the command line.
        scenario.urls.clear();
        let error = with_env(&scenario, &flags(&[]), &env).expect_err("remote");
        assert!(error.contains("nats://10.0.0.9:4222"), "{error}");
    }

    #[test]
    fn monitoring_goes_with_its_servers() {
        let mut scenario = external(&["localhost:4222"]);
        scenario.monitor = vec!["http://localhost:8222/".to_owned()];
        let monitors = |cli: &ExternalOverrides| with_env(&scenario, cli, &[]).map(|r| r.monitors);
        let own = Ok(vec!["http://localhost:8222".to_owned()]);
        assert_eq!(monitors(&flags(&[])), own);
        assert_eq!(monitors(&flags(&["nats://localhost"])), own);
        assert_eq!(monitors(&flags(&["nats://localhost:5222"])), Ok(Vec::new()));
        let mut cli = flags(&["nats://localhost:5222"]);
        cli.monitor = vec!["http://a:1,http://b:2/".to_owned()];
        let both = vec!["http://a:1".to_owned(), "http://b:2".to_owned()];
        assert_eq!(monitors(&cli), Ok(both));
    }
}
