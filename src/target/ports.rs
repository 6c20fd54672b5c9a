//! Which loopback ports the embedded servers listen on: free ones, or the ones a scenario names.

use std::net::{Ipv4Addr, TcpListener};

use crate::error::{environment, usage};

/// The three ports of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    /// Clients.
    pub(super) client: u16,
    /// HTTP monitoring.
    pub(super) monitor: u16,
    /// Routes of the cluster.
    pub(super) route: u16,
}

/// Ports for `servers` servers that the system says are free. All are held at once, so that none
/// is given out twice; another process may still take one before the server does.
pub(super) fn free(servers: u8) -> anyhow::Result<Vec<Ports>> {
    let listeners = (0..usize::from(servers) * 3)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(|error| environment(format!("no free port on 127.0.0.1: {error}")))?;
    let ports = listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect::<std::io::Result<Vec<_>>>()?;
    Ok(triples(&ports))
}

/// The ports from `first` on: client, monitor, route of the first server, then of the next.
/// One that is taken is an error, as the scenario asked for exactly these.
pub(super) fn fixed(first: u16, servers: u8) -> anyhow::Result<Vec<Ports>> {
    let count = u16::from(servers) * 3;
    if first == 0 || first.checked_add(count - 1).is_none() {
        return Err(usage(format!(
            "target.port = {first}: {servers} servers need the {count} ports from there on; \
             choose one from 1 to {}",
            u16::MAX - count + 1
        )));
    }
    let ports: Vec<u16> = (first..=first + (count - 1)).collect();
    for port in &ports {
        if let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, *port)) {
            return Err(taken(*port, first, &error.to_string()));
        }
    }
    Ok(triples(&ports))
}

/// The error for a port that `target.port` asks for and another process has.
pub(super) fn taken(port: u16, first: u16, why: &str) -> anyhow::Error {
    environment(format!(
        "port {port} on 127.0.0.1, which target.port = {first} asks for, cannot be used: {why}; \
         end the process that has it (`ss -ltnp 'sport = :{port}'`), choose another target.port, \
         or leave the key out to get free ports"
    ))
}

fn triples(ports: &[u16]) -> Vec<Ports> {
    ports
        .chunks_exact(3)
        .map(|three| Ports {
            client: three[0],
            monitor: three[1],
            route: three[2],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn free_ports_are_all_different() {
        let ports = free(3).expect("ports");
        let distinct: BTreeSet<u16> = ports
            .iter()
            .flat_map(|p| [p.client, p.monitor, p.route])
            .collect();
        assert_eq!((ports.len(), distinct.len()), (3, 9));
    }

    #[test]
    fn a_taken_port_is_named_with_the_cure() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let port = held.local_addr().expect("address").port();
        let error = fixed(port, 1).expect_err("taken").to_string();
        assert!(error.contains(&format!("port {port}")), "{error}");
        assert!(error.contains("target.port"), "{error}");
    }

    #[test]
    fn ports_beyond_the_last_are_refused() {
        for port in [0, 65_528, u16::MAX] {
            let error = fixed(port, 3).expect_err("too high").to_string();
            assert!(error.contains("65527"), "{error}");
        }
    }
}
