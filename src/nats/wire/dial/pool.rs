//! The servers to try, in which order and how soon. Pure but for one shuffle; who reconnects owns
//! one, and tells it how each attempt ended.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use async_nats::ServerAddr;
use rand::seq::SliceRandom as _;

use super::Info;
use crate::nats::connect::addresses;
use crate::nats::endpoint::Endpoint;

/// The longest wait before an attempt.
const MAX_WAIT: Duration = Duration::from_secs(4);

/// Servers that are kept at most, whatever a server tells.
const MAX_SERVERS: usize = 256;

/// Where a server is. Shown as `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    tls: bool,
    /// The name its certificate is made out for, where that is not `host`.
    tls_name: Option<String>,
}

impl Address {
    /// Of a URL without credentials.
    fn new(url: &ServerAddr) -> Self {
        Self {
            host: url.host().to_owned(),
            port: url.port(),
            tls: url.tls_required(),
            tls_name: None,
        }
    }

    /// Host name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL asks for TLS.
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// `nats://host:port` or `tls://host:port`.
    pub fn url(&self) -> String {
        format!("{}://{self}", if self.tls { "tls" } else { "nats" })
    }

    /// The name that the server's certificate must be made out for.
    pub(super) fn tls_name(&self) -> &str {
        self.tls_name.as_deref().unwrap_or(&self.host)
    }

    fn is_same_place(&self, other: &Self) -> bool {
        self.port == other.port && self.host.eq_ignore_ascii_case(&other.host)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[derive(Debug)]
struct Server {
    address: Address,
    /// Told by a server, not by the endpoint.
    learnt: bool,
}

/// The servers of an endpoint and those that they told of.
#[derive(Debug)]
pub struct Pool {
    /// In the order of the attempts to come. The one tried last is at the end: it has just failed,
    /// or the connection to it is up and the others are the ones to turn to when it ends.
    servers: VecDeque<Server>,
    learns: bool,
    /// Attempts that failed since the last one that did not.
    failures: u32,
}

impl Pool {
    /// The endpoint's servers, in an order of chance, so that many connections spread over them.
    pub fn new(endpoint: &Endpoint) -> Result<Self> {
        let mut servers: Vec<Server> = addresses(endpoint)?
            .iter()
            .map(|url| Server {
                address: Address::new(url),
                learnt: false,
            })
            .collect();
        servers.shuffle(&mut rand::rng());
        Ok(Self {
            servers: servers.into(),
            learns: !endpoint.ignore_discovered_servers,
            failures: 0,
        })
    }

    /// How many servers there are, at least one.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// The server to try now, and how long to wait before: 0, 2, 4, 8 ms up to 4 s as attempts
    /// keep failing.
    #[expect(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> (Address, Duration) {
        self.servers.rotate_left(1);
        let server = &self.servers[self.servers.len() - 1];
        let wait = match self.failures {
            0 => Duration::ZERO,
            n => Duration::from_millis(2_u64.saturating_pow(n)).min(MAX_WAIT),
        };
        (server.address.clone(), wait)
    }

    /// The server of the last [`Self::next`] let us in.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The server of the last [`Self::next`] did not.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Takes in what the server of the last [`Self::next`] says of its cluster: new servers are
    /// added, those that it no longer knows are dropped unless the endpoint names them. The server
    /// itself stays last, so that a lame duck is left for the others.
    pub fn learn(&mut self, info: &Info) {
        if !self.learns || info.connect_urls.is_empty() {
            return;
        }
        let Some(current) = self.servers.pop_back() else {
            return;
        };
        let told: Vec<Address> = info
            .connect_urls
            .iter()
            .take(MAX_SERVERS)
            .filter_map(|url| url.parse::<ServerAddr>().ok())
            .map(|url| Self::relative(Address::new(&url), &current.address))
            .collect();
        self.servers.retain(|known| {
            !known.learnt || told.iter().any(|told| told.is_same_place(&known.address))
        });
        let mut new: Vec<Address> = Vec::new();
        for address in told {
            let is_it = |known: &Address| known.is_same_place(&address);
            let known = self.servers.iter().any(|server| is_it(&server.address));
            if !known && !is_it(&current.address) && !new.iter().any(is_it) {
                new.push(address);
            }
        }
        new.truncate(MAX_SERVERS.saturating_sub(self.servers.len() + 1));
        // All clients hear the same list; they should not all turn to its first server.
        new.shuffle(&mut rand::rng());
        self.servers.extend(new.into_iter().map(|address| Server {
            address,
            learnt: true,
        }));
        self.servers.push_back(current);
    }

    /// A learnt address is reached the way its teacher was: through TLS if that was asked for, and
    /// with the teacher's name where it is told by number, since certificates are made for names.
    fn relative(mut address: Address, teacher: &Address) -> Address {
        let is_number = |host: &str| host.parse::<IpAddr>().is_ok();
        address.tls |= teacher.tls;
        if is_number(&address.host) && !is_number(teacher.tls_name()) {
            address.tls_name = Some(teacher.tls_name().to_owned());
        }
        address
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pool(urls: &str) -> Pool {
        Pool::new(&Endpoint::parse(urls).expect("URLs")).expect("servers")
    }

    fn telling(urls: &[&str]) -> Info {
        let mut info = Info::parse(b"{\"max_payload\":1}").expect("readable");
        info.connect_urls = urls.iter().map(|url| (*url).to_owned()).collect();
        info
    }

    /// The URLs of the next `n` attempts, all of which fail.
    fn tried(pool: &mut Pool, n: usize) -> Vec<String> {
        let attempt = |_| {
            let (address, _) = pool.next();
            pool.failed();
            address.url()
        };
        (0..n).map(attempt).collect()
    }

    fn sorted(mut urls: Vec<String>) -> Vec<String> {
        urls.sort();
        urls
    }

    #[test]
    fn addresses_are_those_of_the_urls() {
        let mut pool = pool("tls://h:1,[::1]:2");
        assert_eq!(sorted(tried(&mut pool, 2)), ["nats://[::1]:2", "tls://h:1"]);
        let (address, _) = pool.next();
        let shown = address.to_string();
        assert_eq!(address.url().split("://").last(), Some(shown.as_str()));
        let nowhere = Endpoint {
            urls: Vec::new(),
            ..Endpoint::default()
        };
        assert!(Pool::new(&nowhere).is_err());
    }

    #[test]
    fn many_connections_spread_over_the_servers() {
        let first: BTreeSet<String> = (0..100).map(|_| pool("a,b").next().0.url()).collect();
        assert_eq!(
            first.len(),
            2,
            "one server would be first by chance of 2^-99"
        );
    }

    #[test]
    fn waits_grow_from_nothing_to_four_seconds_and_begin_anew() {
        let mut pool = pool("a,b,c");
        let mut wait_ms = || {
            let (_, wait) = pool.next();
            pool.failed();
            wait.as_millis()
        };
        let waits: Vec<u128> = (0..16).map(|_| wait_ms()).collect();
        let expected = [
            0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4000, 4000, 4000, 4000,
        ];
        assert_eq!(waits, expected);
        pool.failures = u32::MAX;
        pool.failed();
        assert_eq!(pool.next().1, MAX_WAIT);
        pool.succeeded();
        assert_eq!(pool.next().1, Duration::ZERO);
    }

    #[test]
    fn what_a_server_tells_is_tried_before_it_is_tried_again() {
        let mut pool = pool("a:1");
        let (seed, _) = pool.next();
        pool.succeeded();
        pool.learn(&telling(&["A:1", "b:2", "c:3", "b:2", "no url"]));
        assert_eq!(pool.len(), 3);
        // The connection is lost, or its server is a lame duck: the others come first.
        assert_eq!(sorted(tried(&mut pool, 2)), ["nats://b:2", "nats://c:3"]);
        assert_eq!(pool.next().0, seed);

        // b has left the cluster; what the endpoint names stays.
        pool.learn(&telling(&["c:3", "d:4"]));
        assert_eq!(sorted(tried(&mut pool, 2)), ["nats://c:3", "nats://d:4"]);
        assert_eq!(pool.next().0, seed);
        pool.learn(&telling(&[]));
        assert_eq!(
            pool.len(),
            3,
            "a server that tells nothing takes nothing away"
        );

        let mut stays = Pool::new(&Endpoint {
            ignore_discovered_servers: true,
            ..Endpoint::default()
        })
        .expect("servers");
        stays.next();
        stays.learn(&telling(&["b:2"]));
        assert_eq!(stays.len(), 1);
    }

    #[test]
    fn learnt_servers_are_no_less_safe_than_their_teacher() {
        let mut pool = pool("tls://nats.example:1");
        pool.next();
        pool.learn(&telling(&["10.0.0.2:2"]));
        let (learnt, _) = pool.next();
        assert_eq!(learnt.url(), "tls://10.0.0.2:2");
        assert_eq!(learnt.tls_name(), "nats.example");
        // Told by a server that was itself told by number.
        pool.learn(&telling(&["10.0.0.2:2", "10.0.0.3:3", "b.example:4"]));
        for _ in 0..pool.len() {
            let (address, _) = pool.next();
            let name = match address.port() {
                4 => "b.example",
                _ => "nats.example",
            };
            assert_eq!((address.tls(), address.tls_name()), (true, name));
        }
    }

    #[test]
    fn a_flood_of_servers_is_not_kept() {
        let urls: Vec<String> = (1..10_000).map(|port| format!("h:{port}")).collect();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        let mut pool = pool("a,b,c");
        pool.next();
        pool.learn(&telling(&urls));
        assert_eq!(pool.len(), MAX_SERVERS);
    }

    proptest! {
        #[test]
        fn every_server_has_its_turn_and_the_last_tried_is_last(
            own in 1_usize..6,
            told in prop::collection::vec(prop::collection::vec(1_u16..12, 0..8), 0..6),
            ended_well in prop::collection::vec(any::<bool>(), 0..40),
        ) {
            let urls: Vec<String> = (1..=own).map(|port| format!("h:{port}")).collect();
            let mut pool = pool(&urls.join(","));
            let mut told = told.into_iter();
            for ok in ended_well {
                let (current, wait) = pool.next();
                prop_assert!(wait <= MAX_WAIT);
                if ok {
                    pool.succeeded();
                    let urls: Vec<String> = told.next().unwrap_or_default().iter()
                        .map(|port| format!("h:{port}")).collect();
                    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
                    pool.learn(&telling(&urls));
                } else {
                    pool.failed();
                }
                let all: Vec<String> = pool.servers.iter().map(|s| s.address.url()).collect();
                let different: BTreeSet<&String> = all.iter().collect();
                prop_assert_eq!(different.len(), pool.len(), "no server is there twice");
                prop_assert_eq!(all.last(), Some(&current.url()));
                for url in &urls {
                    prop_assert!(all.contains(&format!("nats://{url}")), "{url} was dropped");
                }
            }
            let n = pool.len();
            let round = tried(&mut pool, n);
            prop_assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), n);
            prop_assert_eq!(tried(&mut pool, n), round, "the next round is in the same order");
        }
    }
}
