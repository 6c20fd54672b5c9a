//! One atomic batch: which headers its messages carry, which of them are answered, and how it
//! ended. The server stages the messages and stores all of them at the commit, or none.
//!
//! The first message and the commit have a reply subject, `<inbox>.<id>.<sequence>`; the caller
//! subscribes to `<inbox>.>`. Those between have none, for the commit speaks for them.

use super::{Answer, How, Settled, cause, check_id};

/// Messages a server takes in one batch unless its `limits.batch.max_msgs` says otherwise. An end
/// that is not stored does not count.
pub const SERVER_MAX_MESSAGES: u64 = 1000;

/// How a batch ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// With this message, which is stored.
    Stored,
    /// Before this message, which is not stored.
    End,
}

/// What a message of the batch carries besides its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Id of the batch.
    pub id: &'a str,
    /// Batch sequence, from 1.
    pub sequence: u64,
    /// The same as text.
    digits: &'a str,
    /// Whether the batch ends here.
    pub commit: Option<Commit>,
    /// Where the answer goes; `None` for a message that is not answered.
    pub reply: Option<&'a str>,
}

impl Part<'_> {
    /// Its headers, name and value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let commit = self.commit.map(|commit| match commit {
            Commit::Stored => "1",
            Commit::End => "eob",
        });
        [
            ("Nats-Batch-Id", self.id),
            ("Nats-Batch-Sequence", self.digits),
        ]
        .into_iter()
        .chain(commit.map(|value| ("Nats-Batch-Commit", value)))
    }
}

/// A batch that is stored as a whole or not at all.
#[derive(Debug)]
pub struct Atomic {
    id: String,
    /// The last sequence as text.
    digits: String,
    /// The last reply subject; its head never changes.
    subject: String,
    head: usize,
    /// Messages to be stored.
    sent: u64,
    opened: bool,
    committed: bool,
    fault: Option<String>,
    over: bool,
}

impl Atomic {
    /// A batch whose answers come to `<inbox>.>`. No other open batch of the stream may have this
    /// `id`. Fails for an id the server would refuse.
    pub fn new(inbox: &str, id: &str) -> anyhow::Result<Self> {
        check_id(id)?;
        let subject = format!("{inbox}.{id}.");
        Ok(Self {
            id: id.to_owned(),
            digits: String::new(),
            head: subject.len(),
            subject,
            sent: 0,
            opened: false,
            committed: false,
            fault: None,
            over: false,
        })
    }

    /// Whether another message may go: only the first before its answer, none after the commit.
    pub fn may_send(&self) -> bool {
        !self.over && !self.committed && (self.sent == 0 || self.opened)
    }

    /// The next message, which counts as sent from now on; the `last` one commits. Only while
    /// [`Self::may_send`].
    pub fn message(&mut self, last: bool) -> Part<'_> {
        debug_assert!(self.may_send(), "a message that may not be sent");
        self.sent += 1;
        self.committed = last;
        self.part(self.sent, last.then_some(Commit::Stored))
    }

    /// An empty message that commits and is not stored, for servers of
    /// [`Kind::AtomicEnd`](super::Kind::AtomicEnd). `None` where [`Self::may_send`] says no, and
    /// when there is nothing to commit.
    pub fn end(&mut self) -> Option<Part<'_>> {
        if !self.may_send() || self.sent == 0 {
            return None;
        }
        self.committed = true;
        Some(self.part(self.sent + 1, Some(Commit::End)))
    }

    /// Its commit is on its way, or answered.
    pub fn is_committed(&self) -> bool {
        self.committed
    }

    /// Every message is settled, and no answer matters any more.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Messages sent, without an end that is not stored.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Why the batch was not stored, or not as it should.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Whether an answer with this subject is to this batch.
    pub fn owns(&self, subject: &str) -> bool {
        self.asked(subject).is_some()
    }

    /// Takes in an answer, and says what it settles: nothing, or all. Those of other batches
    /// settle nothing.
    pub fn on_answer(&mut self, subject: &str, answer: &Answer) -> Vec<Settled> {
        let Some(seq) = self.asked(subject).filter(|_| !self.over) else {
            return Vec::new();
        };
        match answer {
            Answer::Opened if seq <= self.sent => {
                self.opened = true;
                Vec::new()
            }
            Answer::Committed { count, .. } if *count == self.sent => {
                self.over = true;
                self.all(&How::Acked)
            }
            Answer::Committed { count, .. } if *count == seq && seq == self.sent + 1 => {
                self.fault = Some(
                    "the server stored the end of the batch as a message: to end it without one \
                     needs nats-server 2.14 or newer (API level 4)"
                        .to_owned(),
                );
                self.over = true;
                self.all(&How::Acked)
            }
            // Without one of its messages a batch is never stored.
            Answer::Refused { code, text, .. } => {
                let cause = cause(*code, text);
                self.fault = Some(cause.clone());
                self.over = true;
                self.all(&How::Refused(cause))
            }
            Answer::Stored { .. } => self.stored(seq),
            Answer::Committed { count, .. } => {
                let sent = self.sent;
                self.give_up(&format!(
                    "the server committed {count} messages and not {sent}"
                ))
            }
            _ => self.give_up("an answer that cannot be read"),
        }
    }

    /// Ends the batch for the caller's reason, a cut connection or a silence too long: what became of
    /// it nobody has said.
    pub fn give_up(&mut self, why: &str) -> Vec<Settled> {
        if self.over {
            return Vec::new();
        }
        self.over = true;
        self.fault.get_or_insert_with(|| why.to_owned());
        self.all(&How::Unknown(why.to_owned()))
    }

    /// The server took a message for an ordinary publish.
    fn stored(&mut self, seq: u64) -> Vec<Settled> {
        let why = "the server stored a message of the batch by itself: an atomic batch needs \
                   nats-server 2.12 or newer (API level 2)";
        self.fault = Some(why.to_owned());
        self.over = true;
        let unknown = || How::Unknown(why.to_owned());
        let pieces = [
            (1..=seq - 1, unknown()),
            (seq..=seq.min(self.sent), How::Acked),
            (seq + 1..=self.sent, unknown()),
        ];
        pieces
            .into_iter()
            .filter(|(seqs, _)| !seqs.is_empty())
            .map(|(seqs, how)| Settled { seqs, how })
            .collect()
    }

    fn all(&self, how: &How) -> Vec<Settled> {
        let seqs = 1..=self.sent;
        let any = (!seqs.is_empty()).then(|| Settled {
            seqs,
            how: how.clone(),
        });
        any.into_iter().collect()
    }

    fn part(&mut self, sequence: u64, commit: Option<Commit>) -> Part<'_> {
        let answered = sequence == 1 || commit.is_some();
        self.digits.clear();
        self.digits.push_str(itoa::Buffer::new().format(sequence));
        if answered {
            self.subject.truncate(self.head);
            self.subject.push_str(&self.digits);
        }
        Part {
            id: &self.id,
            sequence,
            digits: &self.digits,
            commit,
            reply: answered.then_some(self.subject.as_str()),
        }
    }

    /// The sequence of the message with this reply subject.
    fn asked(&self, subject: &str) -> Option<u64> {
        let seq = subject.strip_prefix(&self.subject[..self.head])?;
        let seq = seq.parse().ok()?;
        (1..=self.sent + 1).contains(&seq).then_some(seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Atomic {
        Atomic::new("_INBOX.x", "b1").expect("an id")
    }

    fn committed(count: u64) -> Answer {
        Answer::Committed {
            batch: "b1".to_owned(),
            count,
            stream_seq: 9,
            duplicate: false,
        }
    }

    fn all(last: u64, how: How) -> Vec<Settled> {
        vec![Settled {
            seqs: 1..=last,
            how,
        }]
    }

    /// An opened batch with `sent` messages on the way.
    fn opened(sent: u64) -> Atomic {
        let mut batch = batch();
        for seq in 1..=sent {
            batch.message(false);
            if seq == 1 {
                let settled = batch.on_answer("_INBOX.x.b1.1", &Answer::Opened);
                assert_eq!(settled, []);
            }
        }
        batch
    }

    #[test]
    fn the_first_and_the_last_message_are_answered() {
        let mut batch = batch();
        assert_eq!(batch.end(), None, "there is nothing to end");
        let part = batch.message(false);
        assert_eq!(part.reply, Some("_INBOX.x.b1.1"));
        assert!(!batch.may_send(), "the server may refuse the batch");
        batch.on_answer("_INBOX.x.b1.1", &Answer::Opened);
        assert!(batch.may_send());
        let part = batch.message(false);
        assert_eq!(part.reply, None);
        let headers: Vec<_> = part.headers().collect();
        assert_eq!(
            headers,
            [("Nats-Batch-Id", "b1"), ("Nats-Batch-Sequence", "2")]
        );
        let part = batch.message(true);
        assert_eq!(part.reply, Some("_INBOX.x.b1.3"));
        assert_eq!(part.headers().last(), Some(("Nats-Batch-Commit", "1")));
        assert!(!batch.may_send());
        assert_eq!(batch.end(), None);
        let settled = batch.on_answer("_INBOX.x.b1.3", &committed(3));
        assert_eq!(settled, all(3, How::Acked));
        assert!(batch.is_over());
        assert_eq!(batch.on_answer("_INBOX.x.b1.3", &committed(3)), []);
    }

    #[test]
    fn an_end_is_numbered_and_not_counted() {
        let mut batch = opened(2);
        let part = batch.end().expect("something to end");
        assert_eq!((part.sequence, part.commit), (3, Some(Commit::End)));
        assert_eq!(part.headers().last(), Some(("Nats-Batch-Commit", "eob")));
        assert_eq!(batch.sent(), 2);
        let settled = batch.on_answer("_INBOX.x.b1.3", &committed(2));
        assert_eq!(settled, all(2, How::Acked));
        assert_eq!(batch.fault(), None);
    }

    #[test]
    fn an_end_that_an_old_server_stored_is_a_fault() {
        let mut batch = opened(2);
        batch.end().expect("something to end");
        let settled = batch.on_answer("_INBOX.x.b1.3", &committed(3));
        assert_eq!(settled, all(2, How::Acked));
        assert!(batch.fault().is_some_and(|f| f.contains("2.14")));
    }

    #[test]
    fn a_refusal_settles_all_of_it() {
        let mut batch = opened(4);
        batch.message(true);
        let refused = Answer::Refused {
            code: 10_176,
            text: "atomic publish batch is incomplete".to_owned(),
            seq: None,
        };
        assert_eq!(batch.on_answer("_INBOX.y.b1.5", &refused), [], "not ours");
        assert_eq!(batch.on_answer("_INBOX.x.b2.5", &refused), [], "not ours");
        let settled = batch.on_answer("_INBOX.x.b1.5", &refused);
        let fault = batch.fault().expect("a fault").to_owned();
        assert!(fault.starts_with("10176 "), "{fault}");
        assert_eq!(settled, all(5, How::Refused(fault)));
    }

    #[test]
    fn what_is_given_up_is_unknown_committed_or_not() {
        let cut = || "the connection was cut".to_owned();
        let settled = opened(2).give_up(&cut());
        assert_eq!(settled, all(2, How::Unknown(cut())));
        let mut batch = opened(2);
        batch.message(true);
        assert_eq!(batch.give_up(&cut()), all(3, How::Unknown(cut())));
        assert_eq!(batch.give_up(&cut()), [], "it is over");
        assert_eq!(batch.fault(), Some(cut().as_str()));
    }

    #[test]
    fn an_ordinary_ack_and_a_wrong_count_are_faults() {
        let mut batch = batch();
        batch.message(false);
        let settled = batch.on_answer("_INBOX.x.b1.1", &Answer::Stored { stream_seq: 1 });
        assert_eq!(settled, all(1, How::Acked));
        assert!(batch.fault().is_some_and(|f| f.contains("2.12")));

        let mut batch = opened(2);
        batch.message(true);
        let settled = batch.on_answer("_INBOX.x.b1.3", &committed(2));
        assert!(matches!(settled[0].how, How::Unknown(_)), "{settled:?}");
    }
}
