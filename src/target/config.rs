//! The text of an embedded server's configuration file. Pure: what goes in is all that decides it.
//!
//! `embedded` writes it. Everything is quoted: an unquoted `2m` is read by nats-server as two
//! million seconds, and an unquoted password of digits as a number.

use std::fmt::Write as _;
use std::path::Path;

use super::ports::Ports;
use crate::scenario::model::{Encryption, SyncInterval};
use crate::secret::Secret;

/// The account in which trials run, and its user.
pub(super) const ACCOUNT: &str = "JSB";
/// User of [`ACCOUNT`].
pub(super) const USER: &str = "jsbench";
/// The user of the system account.
pub(super) const SYSTEM_USER: &str = "sys";
/// Environment variable of the server process that holds the encryption key.
pub(super) const KEY_VARIABLE: &str = "JSBENCH_JETSTREAM_KEY";

/// Connections between each two servers, besides the one of the system account.
pub(super) const ROUTE_POOL: u32 = 3;

/// The passwords of one group of servers, made anew for each.
#[derive(Debug, Clone)]
pub(super) struct Passwords {
    /// Of [`USER`].
    pub(super) user: Secret,
    /// Of [`SYSTEM_USER`].
    pub(super) system: Secret,
    /// Between the servers of a cluster.
    pub(super) route: Secret,
    /// Encryption at rest.
    pub(super) storage_key: Secret,
}

impl Passwords {
    /// New random ones, 128 bits each.
    pub(super) fn random() -> Self {
        // The letter in front keeps nats-server from reading a value of the environment as a number.
        let secret = || Secret::new(format!("k{:032x}", rand::random::<u128>()));
        Self {
            user: secret(),
            system: secret(),
            route: secret(),
            storage_key: secret(),
        }
    }
}

/// One server's configuration.
#[derive(Debug)]
pub(super) struct ServerConfig<'a> {
    /// Server name.
    pub(super) name: &'a str,
    /// Cluster name, unique per group, so that no two groups ever join.
    pub(super) cluster: &'a str,
    /// This server's ports.
    pub(super) ports: Ports,
    /// The ports of all servers of the group; more than one makes a cluster.
    pub(super) all_ports: &'a [Ports],
    /// Where streams are kept.
    pub(super) store_dir: &'a Path,
    /// Limit of memory streams.
    pub(super) max_mem_bytes: u64,
    /// Limit of file streams.
    pub(super) max_file_bytes: u64,
    /// fsync policy.
    pub(super) sync_interval: SyncInterval,
    /// Encryption at rest.
    pub(super) encryption: Encryption,
    /// Passwords of the group.
    pub(super) passwords: &'a Passwords,
}

impl ServerConfig<'_> {
    /// The text of the file.
    pub(super) fn render(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        line(format!("server_name: {}", quote(self.name)));
        line(format!("listen: \"127.0.0.1:{}\"", self.ports.client));
        line(format!("http: \"127.0.0.1:{}\"", self.ports.monitor));
        line("jetstream {".to_owned());
        line(format!(
            "  store_dir: {}",
            quote(&self.store_dir.to_string_lossy())
        ));
        line(format!("  max_mem: {}", self.max_mem_bytes));
        line(format!("  max_file: {}", self.max_file_bytes));
        line(format!(
            "  sync_interval: \"{}\"",
            go_duration(self.sync_interval)
        ));
        if let Some(cipher) = cipher(self.encryption) {
            line(format!("  cipher: \"{cipher}\""));
            line(format!("  key: ${KEY_VARIABLE}"));
        }
        line("}".to_owned());
        if self.all_ports.len() > 1 {
            line(self.cluster_block());
        }
        line("accounts {".to_owned());
        line(format!(
            "  SYS {{ users: [ {} ] }}",
            user(SYSTEM_USER, &self.passwords.system)
        ));
        line(format!(
            "  {ACCOUNT} {{ jetstream: enabled, users: [ {} ] }}",
            user(USER, &self.passwords.user)
        ));
        line("}".to_owned());
        line("system_account: SYS".to_owned());
        out
    }

    fn cluster_block(&self) -> String {
        let password = self.passwords.route.expose();
        let mut out = format!(
            "cluster {{\n  name: {}\n  listen: \"127.0.0.1:{}\"\n  pool_size: {ROUTE_POOL}\n  \
             compression: off\n  authorization {{ user: \"route\", password: {} }}\n  routes: [\n",
            quote(self.cluster),
            self.ports.route,
            quote(password),
        );
        for ports in self.all_ports {
            let _ = writeln!(
                out,
                "    \"nats-route://route:{password}@127.0.0.1:{}\"",
                ports.route
            );
        }
        out.push_str("  ]\n}");
        out
    }
}

/// The cipher's name in the configuration; `None` for plain files.
fn cipher(encryption: Encryption) -> Option<&'static str> {
    match encryption {
        Encryption::Off => None,
        Encryption::Aes => Some("aes"),
        Encryption::ChaCha => Some("chachapoly"),
    }
}

fn user(name: &str, password: &Secret) -> String {
    format!(
        "{{ user: {}, password: {} }}",
        quote(name),
        quote(password.expose())
    )
}

/// A string as nats-server reads it: in double quotes, backslashes and quotes escaped.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// `always`, or a span as Go reads it, exact to the nanosecond.
fn go_duration(sync: SyncInterval) -> String {
    match sync {
        SyncInterval::Always => "always".to_owned(),
        SyncInterval::Every(span) => match (span.as_secs(), span.subsec_nanos()) {
            (s, 0) => format!("{s}s"),
            (s, ns) => format!("{s}s{ns}ns"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn rendered(servers: usize, encryption: Encryption) -> String {
        let all_ports: Vec<Ports> = (0..servers as u16)
            .map(|i| Ports {
                client: 4000 + i,
                monitor: 5000 + i,
                route: 6000 + i,
            })
            .collect();
        ServerConfig {
            name: "3fa91c02-n1",
            cluster: "jsbench-3fa91c02-a1b2",
            ports: all_ports[0],
            all_ports: &all_ports,
            store_dir: Path::new("/tmp/with \"quotes\"/n1"),
            max_mem_bytes: 1 << 30,
            max_file_bytes: 4 << 30,
            sync_interval: SyncInterval::Every(Duration::from_mins(2)),
            encryption,
            passwords: &Passwords {
                user: Secret::new("k-user"),
                system: Secret::new("k-system"),
                route: Secret::new("k-route"),
                storage_key: Secret::new("k-storage"),
            },
        }
        .render()
    }

    #[test]
    fn one_server() {
        insta::assert_snapshot!(rendered(1, Encryption::Off));
    }

    #[test]
    fn three_servers_encrypted() {
        insta::assert_snapshot!(rendered(3, Encryption::Aes));
    }

    #[test]
    fn the_storage_key_is_never_in_the_file() {
        for encryption in [Encryption::Aes, Encryption::ChaCha] {
            assert!(!rendered(3, encryption).contains("k-storage"));
        }
    }

    #[test]
    fn the_sync_interval_is_exact() {
        let every = |ns| go_duration(SyncInterval::Every(Duration::from_nanos(ns)));
        assert_eq!(go_duration(SyncInterval::Always), "always");
        assert_eq!(every(120_000_000_000), "120s");
        assert_eq!(every(250_000_000), "0s250000000ns");
        assert_eq!(every(1_500_000_000), "1s500000000ns");
    }
}
