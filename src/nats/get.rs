//! Direct gets: asks a stream for its messages without a consumer, one request at a time. Called by
//! `load`'s subscribers; `super::feed` is for what is delivered unasked.
//!
//! Protocol: nats-architecture-and-design ADR-31, the `next_by_subj`, `batch` and last-by-subject
//! forms. A replica may answer that has not caught up, so a message that is not there is asked for
//! again for a while.

use std::time::{Duration, Instant};

use anyhow::bail;
use async_nats::Subject;
use serde_json::json;

use super::conn::{Conn, Inbound, Inbox, Outbound};

/// Without an answer for this long a request is made again; a message that is not found for this
/// long is not there.
const PATIENCE: Duration = Duration::from_secs(5);
/// Until a request that nobody took, or found nothing, is made again.
const PAUSE: Duration = Duration::from_millis(100);

/// Which messages of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All with this subject, in the order of the stream.
    Sequences {
        /// Subject filter.
        filter: String,
        /// Messages by each request; 1 works with servers before 2.11 too.
        batch: u32,
    },
    /// The last message of each of these subjects.
    Subjects(Vec<String>),
}

/// A message, and when it was first asked for.
#[derive(Debug)]
pub struct Got {
    /// The message.
    pub message: Inbound,
    /// When.
    pub asked: Instant,
}

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// A message; its sequence in the stream.
    Message(Option<u64>),
    /// The end of a batch.
    End,
    /// No such message.
    NotFound,
    /// Nobody takes requests now.
    Nobody,
}

/// Gets messages one after the other.
pub struct Gets {
    conn: Conn,
    inbox: Inbox,
    /// Answers come below it, those of a request at its number: a late one is told apart.
    replies: String,
    subject: String,
    wanted: Wanted,
    patience: Duration,
    /// Requests made.
    requests: u64,
    waiting: bool,
    /// Next sequence, or place among the subjects.
    next: u64,
    /// When the message that is next was first asked for.
    asked: Option<Instant>,
}

impl Gets {
    /// Prepares to ask `stream` for what is wanted; nothing is asked yet. `api_prefix` is `$JS.API`
    /// or a domain's.
    pub async fn attach(
        conn: Conn,
        api_prefix: &str,
        stream: &str,
        wanted: Wanted,
    ) -> anyhow::Result<Self> {
        let replies = conn.new_inbox();
        let inbox = conn.subscribe(format!("{replies}.*"), None).await?;
        Ok(Self {
            conn,
            inbox,
            replies,
            subject: format!("{api_prefix}.DIRECT.GET.{stream}"),
            next: match wanted {
                Wanted::Sequences { .. } => 1,
                Wanted::Subjects(_) => 0,
            },
            wanted,
            patience: PATIENCE,
            requests: 0,
            waiting: false,
            asked: None,
        })
    }

    /// The same with another patience than 5 s: how long an answer may take, and a message may be
    /// missing.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The next message. `None` when there are no more, or the connection is closed for good.
    ///
    /// # Errors
    /// The server does not take the request for one.
    pub async fn next(&mut self) -> anyhow::Result<Option<Got>> {
        loop {
            if !self.waiting && !self.ask().await? {
                return Ok(None);
            }
            let asked = self.asked.unwrap_or_else(Instant::now);
            let message = match tokio::time::timeout(self.patience, self.inbox.next()).await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(None),
                Err(_) => {
                    self.waiting = false;
                    continue;
                }
            };
            if !self.is_of_this_request(&message) {
                continue;
            }
            match read(&message)? {
                Answer::Message(sequence) => {
                    self.advance(sequence)?;
                    return Ok(Some(Got { message, asked }));
                }
                Answer::End => (self.waiting, self.asked) = (false, None),
                Answer::NotFound if asked.elapsed() >= self.patience => {
                    if !self.skip() {
                        return Ok(None);
                    }
                }
                Answer::NotFound | Answer::Nobody => {
                    tokio::time::sleep(PAUSE).await;
                    self.waiting = false;
                }
            }
        }
    }

    /// Makes a request; `false` when all was asked for.
    async fn ask(&mut self) -> anyhow::Result<bool> {
        let (subject, body) = match &self.wanted {
            Wanted::Sequences { filter, batch } => {
                let mut body = json!({"seq": self.next, "next_by_subj": filter});
                if *batch > 1 {
                    body["batch"] = (*batch).into();
                }
                (Subject::from(self.subject.as_str()), body.to_string())
            }
            Wanted::Subjects(subjects) => match subjects.get(self.next as usize) {
                Some(subject) => (format!("{}.{subject}", self.subject).into(), String::new()),
                None => return Ok(false),
            },
        };
        self.requests += 1;
        let reply = format!("{}.{}", self.replies, self.requests);
        let request = Outbound {
            subject: &subject,
            reply: Some(&reply),
            headers: &[],
            body: body.as_bytes(),
        };
        self.asked.get_or_insert_with(Instant::now);
        self.conn.send(&request).await?;
        self.waiting = true;
        Ok(true)
    }

    fn is_of_this_request(&self, message: &Inbound) -> bool {
        let number = message
            .subject()
            .strip_prefix(self.replies.as_bytes())
            .and_then(|rest| std::str::from_utf8(rest.strip_prefix(b".")?).ok());
        number.and_then(|n| n.parse().ok()) == Some(self.requests)
    }

    /// The message that is next came; in a batch, others follow by themselves.
    fn advance(&mut self, sequence: Option<u64>) -> anyhow::Result<()> {
        match (&self.wanted, sequence) {
            (Wanted::Sequences { batch, .. }, Some(sequence)) => {
                self.next = sequence + 1;
                if *batch > 1 {
                    return Ok(());
                }
            }
            (Wanted::Sequences { .. }, None) => bail!("a direct get's answer has no sequence"),
            (Wanted::Subjects(_), _) => self.next += 1,
        }
        (self.waiting, self.asked) = (false, None);
        Ok(())
    }

    /// What is next is not there; `false` when nothing can be behind it.
    fn skip(&mut self) -> bool {
        (self.waiting, self.asked) = (false, None);
        self.next += 1;
        matches!(self.wanted, Wanted::Subjects(_))
    }
}

fn read(message: &Inbound) -> anyhow::Result<Answer> {
    match message.status() {
        None => Ok(Answer::Message(
            message.header("Nats-Sequence").and_then(|n| n.parse().ok()),
        )),
        Some(204) => Ok(Answer::End),
        Some(404) => Ok(Answer::NotFound),
        Some(503) => Ok(Answer::Nobody),
        Some(status) => bail!(
            "the server refused a direct get: {status} {}",
            message.description()
        ),
    }
}
