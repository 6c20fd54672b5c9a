//! A TCP relay on loopback whose connections can be cut, held up, and led to another server.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Ends with the test's process.
pub struct Relay {
    /// `nats://127.0.0.1:port`
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    upstream: String,
    dials: usize,
    streams: Vec<TcpStream>,
    holds_sent: bool,
    holds_answers: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy)]
enum Way {
    Sent,
    Answers,
}

impl Relay {
    /// To the server at `url`.
    pub fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let here = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let relay = Self {
            url: format!("nats://{here}"),
            shared: shared.clone(),
        };
        relay.lead_to(url);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accept(&shared, client);
            }
        });
        relay
    }

    /// New connections go to the server at `url`.
    pub fn lead_to(&self, url: &str) {
        let upstream = url.trim_start_matches("nats://");
        upstream.clone_into(&mut self.shared.state().upstream);
    }

    /// How many connections were asked for.
    pub fn dials(&self) -> usize {
        self.shared.state().dials
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        for stream in self.shared.state().streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether what clients send is left in their sockets.
    pub fn hold_sent(&self, holds: bool) {
        self.shared.state().holds_sent = holds;
        self.shared.changed.notify_all();
    }

    /// Whether what servers answer is left in their sockets.
    pub fn hold_answers(&self, holds: bool) {
        self.shared.state().holds_answers = holds;
        self.shared.changed.notify_all();
    }
}

fn accept(shared: &Arc<Shared>, client: TcpStream) {
    let upstream = {
        let mut state = shared.state();
        state.dials += 1;
        state.upstream.clone()
    };
    let Ok(server) = TcpStream::connect(upstream) else {
        return;
    };
    let copy = |s: &TcpStream| s.try_clone().expect("a second handle");
    shared
        .state()
        .streams
        .extend([copy(&client), copy(&server)]);
    for (from, to, way) in [
        (copy(&client), copy(&server), Way::Sent),
        (server, client, Way::Answers),
    ] {
        let shared = shared.clone();
        std::thread::spawn(move || pass_on(&shared, from, to, way));
    }
}

fn pass_on(shared: &Shared, mut from: TcpStream, mut to: TcpStream, way: Way) {
    to.set_nodelay(true).expect("a TCP socket");
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        {
            let held = |state: &mut State| match way {
                Way::Sent => state.holds_sent,
                Way::Answers => state.holds_answers,
            };
            let state = shared.changed.wait_while(shared.state(), held);
            drop(state.unwrap_or_else(PoisonError::into_inner));
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
