//! What a subscriber reads from: the consumer protocols of JetStream on the data plane's seam.
//!
//! Pull requests are renewed when half of a batch is used up, flow control and heartbeats of push
//! consumers are answered, an ordered consumer is made anew behind a gap. Consumers other than
//! ordered ones are there already; who made them removes them.
//!
//! Protocol: nats-architecture-and-design ADR-13 (pull), ADR-15/17 (ordered), the server's
//! `$JS.ACK` reply subjects in both forms.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use async_nats::Subject;
use serde_json::json;
use tokio::time::{Sleep, sleep};

use super::conn::{Conn, Inbound, Inbox, Outbound};

/// How long a pull request waits at the server.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// Heartbeat asked of an ordered consumer; two missed ones recreate it.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a feed comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A plain core subscription.
    Core {
        /// Subject, wildcards allowed.
        subject: String,
        /// Queue group.
        group: Option<String>,
    },
    /// A push consumer that is there.
    Push {
        /// Its deliver subject.
        deliver_subject: String,
        /// Its deliver group.
        group: Option<String>,
    },
    /// A pull consumer that is there.
    Pull {
        /// Prefix of the JetStream API, `$JS.API` or a domain's.
        api_prefix: String,
        /// Stream.
        stream: String,
        /// Consumer.
        consumer: String,
        /// Messages per request.
        batch: u32,
        /// Ask again when all of a batch came, and not when half of it did.
        fetch: bool,
    },
    /// An ephemeral consumer of our own that is made anew behind a gap.
    Ordered {
        /// Prefix of the JetStream API.
        api_prefix: String,
        /// Stream.
        stream: String,
        /// Subject filter.
        filter: String,
        /// Prefix of the consumer's name; a number is appended.
        name: String,
        /// Where to start: `all`, `new`, `last`, `last_per_subject`.
        deliver_policy: &'static str,
        /// Start at this sequence instead, when it is above 1.
        from: u64,
    },
}

/// A delivery.
#[derive(Debug)]
pub struct Delivery {
    /// The message; its reply subject takes the ack.
    pub message: Inbound,
    /// What JetStream says of it; `None` for core messages.
    pub meta: Option<Meta>,
}

/// What the reply subject of a delivery says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// How often it has been delivered, this time included.
    pub delivered: u64,
    /// Sequence in the stream.
    pub stream_sequence: u64,
    /// Sequence in the consumer.
    pub consumer_sequence: u64,
    /// Messages behind it that match the consumer.
    pub pending: u64,
}

impl Meta {
    /// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<sseq>.<cseq>.<time>.<pending>`, or the form
    /// with domain and account before the stream and a token behind.
    pub fn parse(reply: &[u8]) -> Option<Self> {
        const MAX_TOKENS: usize = 12;
        let rest = reply.strip_prefix(b"$JS.ACK.")?;
        // Where each token ends.
        let (mut ends, mut tokens) = ([rest.len(); MAX_TOKENS], 0);
        for dot in memchr::memchr_iter(b'.', rest) {
            *ends.get_mut(tokens)? = dot;
            tokens += 1;
        }
        let first = match tokens + 1 {
            7 => 2,
            9..=MAX_TOKENS => 4,
            _ => return None,
        };
        let field = |i: usize| number(&rest[ends[first + i - 1] + 1..ends[first + i]]);
        Some(Self {
            delivered: field(0)?,
            stream_sequence: field(1)?,
            consumer_sequence: field(2)?,
            pending: field(4)?,
        })
    }
}

/// A decimal number of at most 19 digits.
fn number(digits: &[u8]) -> Option<u64> {
    if !matches!(digits.len(), 1..=19) {
        return None;
    }
    digits.iter().try_fold(0, |sum: u64, digit| {
        let digit = digit.wrapping_sub(b'0');
        (digit < 10).then(|| sum * 10 + u64::from(digit))
    })
}

/// What the feed itself has to say.
struct Saying {
    subject: Subject,
    reply: Option<Subject>,
    body: String,
}

impl Saying {
    fn message(&self) -> Outbound<'_> {
        Outbound {
            subject: &self.subject,
            reply: self.reply.as_deref(),
            headers: &[],
            body: self.body.as_bytes(),
        }
    }
}

/// A running feed. One task reads it.
pub struct Feed {
    conn: Conn,
    source: Source,
    inbox: Inbox,
    cuts_seen: u64,
    state: State,
    watchdog: std::pin::Pin<Box<Sleep>>,
    outbox: VecDeque<Saying>,
}

enum State {
    Passive,
    Pull {
        subject: Subject,
        reply: Subject,
        outstanding: u32,
        heard: Instant,
    },
    Ordered(Order),
}

struct Order {
    generation: u32,
    last_stream: u64,
    last_consumer: u64,
    last_heard: Instant,
    name: String,
}

/// What a control message or a delivery means for the feed.
enum Step {
    Deliver(Delivery),
    Nothing,
    Recreate,
}

impl Feed {
    /// Attaches to a source; an ordered consumer is made now.
    pub async fn attach(mut conn: Conn, source: Source) -> anyhow::Result<Self> {
        let cuts_seen = conn.link().cuts();
        let (inbox, state) = match &source {
            Source::Core { subject, group } => (
                conn.subscribe(subject.clone(), group.clone()).await?,
                State::Passive,
            ),
            Source::Push {
                deliver_subject,
                group,
            } => (
                conn.subscribe(deliver_subject.clone(), group.clone())
                    .await?,
                State::Passive,
            ),
            Source::Pull {
                api_prefix,
                stream,
                consumer,
                ..
            } => {
                let reply = conn.new_inbox();
                let inbox = conn.subscribe(reply.clone(), None).await?;
                let subject = format!("{api_prefix}.CONSUMER.MSG.NEXT.{stream}.{consumer}");
                (
                    inbox,
                    State::Pull {
                        subject: subject.into(),
                        reply: reply.into(),
                        outstanding: 0,
                        heard: Instant::now(),
                    },
                )
            }
            Source::Ordered { .. } => {
                let (inbox, order) = order(&conn, &source, None).await?;
                (inbox, State::Ordered(order))
            }
        };
        // The subscription must be at the server before its messages are.
        conn.flush().await?;
        let mut feed = Self {
            source,
            inbox,
            cuts_seen,
            state,
            watchdog: Box::pin(sleep(HEARTBEAT)),
            outbox: VecDeque::new(),
            conn: conn.clone(),
        };
        feed.renew_pull();
        for saying in std::mem::take(&mut feed.outbox) {
            conn.send(&saying.message()).await?;
        }
        Ok(feed)
    }

    /// The connection it reads from.
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// The next delivery. `None` when the connection is closed for good.
    ///
    /// # Errors
    /// The consumer is gone, or an ordered one cannot be made anew.
    pub async fn next(&mut self) -> anyhow::Result<Option<Delivery>> {
        loop {
            match poll_fn(|cx| self.poll_step(cx)).await? {
                None => return Ok(None),
                Some(Step::Deliver(delivery)) => return Ok(Some(delivery)),
                Some(Step::Nothing) => {}
                Some(Step::Recreate) => self.recreate().await?,
            }
        }
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<Option<Step>>> {
        self.after_a_cut();
        while let Some(saying) = self.outbox.front() {
            match self.conn.poll_ready(cx) {
                Poll::Ready(Ok(())) => {
                    self.conn.publish(&saying.message(), |_| {})?;
                    self.outbox.pop_front();
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => break,
            }
        }
        match self.inbox.poll_next(cx) {
            Poll::Ready(Some(message)) => Poll::Ready(self.step(message).map(Some)),
            Poll::Ready(None) => Poll::Ready(Ok(None)),
            Poll::Pending => self.poll_watchdog(cx),
        }
    }

    /// Wakes now and then to look after what a silent connection would never tell.
    fn poll_watchdog(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<Option<Step>>> {
        use std::future::Future as _;
        if self.watchdog.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.watchdog
            .as_mut()
            .reset(tokio::time::Instant::now() + HEARTBEAT);
        if let State::Pull {
            outstanding, heard, ..
        } = &mut self.state
            && heard.elapsed() > PULL_EXPIRES + HEARTBEAT * 2
        {
            // The server answers every request when it expires: this one was lost.
            *outstanding = 0;
            *heard = Instant::now();
        }
        self.renew_pull();
        let silent = match &self.state {
            State::Ordered(order) => order.last_heard.elapsed() > HEARTBEAT * 2,
            _ => false,
        };
        let step = if silent && self.conn.link().is_up() {
            Step::Recreate
        } else {
            Step::Nothing
        };
        Poll::Ready(Ok(Some(step)))
    }

    /// A reconnect restores subscriptions, but pull requests of the dead connection are lost.
    fn after_a_cut(&mut self) {
        let cuts = self.conn.link().cuts();
        if cuts != self.cuts_seen && self.conn.link().is_up() {
            self.cuts_seen = cuts;
            if let State::Pull { outstanding, .. } = &mut self.state {
                *outstanding = 0;
                self.renew_pull();
            }
        }
    }

    fn renew_pull(&mut self) {
        let (
            Source::Pull { batch, fetch, .. },
            State::Pull {
                subject,
                reply,
                outstanding,
                ..
            },
        ) = (&self.source, &mut self.state)
        else {
            return;
        };
        if *outstanding > if *fetch { 0 } else { batch / 2 } {
            return;
        }
        let ask = batch - *outstanding;
        *outstanding = *batch;
        let request = format!(
            "{{\"batch\":{ask},\"expires\":{}}}",
            PULL_EXPIRES.as_nanos()
        );
        self.outbox.push_back(Saying {
            subject: subject.clone(),
            reply: Some(reply.clone()),
            body: request,
        });
    }

    fn step(&mut self, message: Inbound) -> anyhow::Result<Step> {
        if let State::Pull { heard, .. } = &mut self.state {
            *heard = message.at;
        }
        if let Some(status) = message.status()
            && message.payload().is_empty()
        {
            return self.control(status, &message);
        }
        let meta = message.reply().and_then(Meta::parse);
        match &mut self.state {
            State::Passive => {}
            State::Pull { outstanding, .. } => {
                *outstanding = outstanding.saturating_sub(1);
                self.renew_pull();
            }
            State::Ordered(order) => {
                let Some(meta) = meta else {
                    return Ok(Step::Nothing);
                };
                order.last_heard = message.at;
                if meta.consumer_sequence != order.last_consumer + 1 {
                    return Ok(Step::Recreate);
                }
                order.last_consumer = meta.consumer_sequence;
                order.last_stream = meta.stream_sequence;
            }
        }
        Ok(Step::Deliver(Delivery { message, meta }))
    }

    fn control(&mut self, status: u16, message: &Inbound) -> anyhow::Result<Step> {
        match (status, &mut self.state) {
            (100, state) => {
                let stalled = message.header("Nats-Consumer-Stalled").map(str::as_bytes);
                let last = message
                    .header("Nats-Last-Consumer")
                    .and_then(|v| v.parse::<u64>().ok());
                if let Some(subject) = message.reply().or(stalled) {
                    self.outbox.push_back(Saying {
                        subject: String::from_utf8_lossy(subject).into_owned().into(),
                        reply: None,
                        body: String::new(),
                    });
                }
                if let State::Ordered(order) = state {
                    order.last_heard = message.at;
                    if last.is_some_and(|last| last > order.last_consumer) {
                        return Ok(Step::Recreate);
                    }
                }
                Ok(Step::Nothing)
            }
            (408 | 404 | 409, State::Pull { outstanding, .. }) => {
                let why = message.description();
                if why.contains("Consumer Deleted") || why.contains("push based") {
                    bail!("the server ended the pull: {why}");
                }
                // Without a count the whole request is over, and asking again at once would spin:
                // the watchdog does it.
                match message
                    .header("Nats-Pending-Messages")
                    .and_then(|v| v.parse::<u32>().ok())
                {
                    Some(left) => {
                        *outstanding = outstanding.saturating_sub(left);
                        self.renew_pull();
                    }
                    None => *outstanding = 0,
                }
                Ok(Step::Nothing)
            }
            // No responders: the stream or its leader is away; the watchdog asks again.
            (503, State::Pull { outstanding, .. }) => {
                *outstanding = 0;
                Ok(Step::Nothing)
            }
            _ => Ok(Step::Nothing),
        }
    }

    async fn recreate(&mut self) -> anyhow::Result<()> {
        let State::Ordered(old) = &self.state else {
            return Ok(());
        };
        let mut last_error = None;
        let (generation, last_stream, name) = (old.generation, old.last_stream, old.name.clone());
        if let Source::Ordered {
            api_prefix, stream, ..
        } = &self.source
        {
            let subject = format!("{api_prefix}.CONSUMER.DELETE.{stream}.{name}");
            // It may be gone already, which is why we are here.
            let _ = self
                .conn
                .request(&subject, b"", Duration::from_millis(500))
                .await;
        }
        for _ in 0..30 {
            match order(
                &self.conn,
                &self.source,
                Some((generation + 1, last_stream)),
            )
            .await
            {
                Ok((inbox, order)) => {
                    self.inbox = inbox;
                    self.state = State::Ordered(order);
                    return Ok(());
                }
                Err(e) => last_error = Some(e),
            }
            sleep(Duration::from_millis(500)).await;
        }
        Err(last_error.unwrap_or_else(|| anyhow!("ordered consumer lost")))
    }
}

/// Makes the consumer of an ordered feed: from the start, or behind the last message seen.
async fn order(
    conn: &Conn,
    source: &Source,
    after: Option<(u32, u64)>,
) -> anyhow::Result<(Inbox, Order)> {
    let Source::Ordered {
        api_prefix,
        stream,
        filter,
        name,
        deliver_policy,
        from,
    } = source
    else {
        bail!("not an ordered source");
    };
    let (generation, last_stream) = after.unwrap_or((0, from.saturating_sub(1)));
    let deliver_subject = conn.new_inbox();
    let inbox = conn.subscribe(deliver_subject.clone(), None).await?;
    conn.flush().await?;
    let name = format!("{name}_{generation}");
    let mut config = json!({
        "name": name, "deliver_subject": deliver_subject, "ack_policy": "none", "max_deliver": 1,
        "filter_subject": filter, "flow_control": true, "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        "num_replicas": 1, "mem_storage": true, "inactive_threshold": 30_000_000_000_u64,
        "deliver_policy": deliver_policy,
    });
    if last_stream > 0 {
        config["deliver_policy"] = "by_start_sequence".into();
        config["opt_start_seq"] = (last_stream + 1).into();
    }
    let body = json!({"stream_name": stream, "config": config, "action": "create"});
    let subject = format!("{api_prefix}.CONSUMER.CREATE.{stream}.{name}.{filter}");
    let answer = conn
        .request(&subject, body.to_string().as_bytes(), API_TIMEOUT)
        .await?;
    let answer: serde_json::Value = serde_json::from_slice(answer.payload())
        .context("answer of CONSUMER.CREATE is not JSON")?;
    if let Some(error) = answer.get("error") {
        bail!("cannot make ordered consumer `{name}` on stream `{stream}`: {error}");
    }
    let order = Order {
        generation,
        last_stream,
        last_consumer: 0,
        last_heard: Instant::now(),
        name,
    };
    Ok((inbox, order))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_ack_subject_are_read() {
        let expected = Meta {
            delivered: 2,
            stream_sequence: 17,
            consumer_sequence: 5,
            pending: 3,
        };
        assert_eq!(
            Meta::parse(b"$JS.ACK.S.C.2.17.5.1700000000000000000.3"),
            Some(expected)
        );
        assert_eq!(
            Meta::parse(b"$JS.ACK.hub.ACC.S.C.2.17.5.1700000000000000000.3.x"),
            Some(expected)
        );
        assert_eq!(Meta::parse(b"$JS.ACK.S.C.2.17"), None);
        assert_eq!(Meta::parse(b"$JS.ACK.S.C.a.b.c.d.e"), None);
        assert_eq!(Meta::parse(b"_INBOX.abc"), None);
    }
}
