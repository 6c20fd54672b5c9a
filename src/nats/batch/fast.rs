//! One fast-ingest batch: numbering, reply subjects, how much may be in flight, and what the
//! server's flow acks settle.
//!
//! All the protocol is in the reply subject,
//! `<inbox>.<id>.<flow>.fail.<sequence>.<operation>.$FI`: the server acks on that of the message
//! which made the ack due, so the caller subscribes to `<inbox>.>`. Gaps end the batch (`fail`):
//! where they are allowed, an ack no longer says that a message was stored.
//!
//! What the caller does: sends messages while [`Fast::may_send`], sends [`Fast::close`] when it is
//! done or [`Fast::must_close`], sends [`Fast::ping`] when an answer is due and does not come or
//! nothing was sent for a few seconds, and gives up a batch whose connection was cut.

use super::{Answer, How, Settled, UNKNOWN_BATCH, cause, check_id};

/// The most messages per ack a server can be asked for; 2.15.1 acks every 500 at the latest.
const MAX_FLOW: u32 = u16::MAX as u32;

/// What a message asks of the server, as in its reply subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    /// Open the batch or append to it.
    Append,
    /// End it, storing nothing.
    Close,
    /// Repeat the last flow ack.
    Ping,
}

/// A batch that streams messages into a stream.
#[derive(Debug)]
pub struct Fast {
    /// The last reply subject; its head never changes.
    subject: String,
    head: usize,
    window: u64,
    sent: u64,
    /// Everything up to it is settled.
    settled: u64,
    /// Above it, settled on their own, ascending.
    alone: Vec<u64>,
    /// Messages after `settled` at which the next flow ack comes; `None` before the first one.
    every: Option<u64>,
    fault: Option<String>,
    closed: bool,
    over: bool,
}

impl Fast {
    /// A batch whose answers come to `<inbox>.>`. `window` is the most messages in flight, `flow`
    /// the messages per ack to ask for, no more than the window: the server may ack more often, but
    /// not less. No other open batch of the stream may have this `id`. Fails for an id the server
    /// would refuse.
    pub fn new(inbox: &str, id: &str, flow: u32, window: u32) -> anyhow::Result<Self> {
        check_id(id)?;
        let window = window.max(1);
        let flow = flow.clamp(1, window.min(MAX_FLOW));
        let subject = format!("{inbox}.{id}.{flow}.fail.");
        Ok(Self {
            head: subject.len(),
            subject,
            window: u64::from(window),
            sent: 0,
            settled: 0,
            alone: Vec::new(),
            every: None,
            fault: None,
            closed: false,
            over: false,
        })
    }

    /// Whether there is room for another message. Only the first may go before its answer. As long
    /// as this is false an answer is on its way, or was lost: the server acks after `every`
    /// messages, and those always have room.
    pub fn may_send(&self) -> bool {
        if self.over || self.closed || self.fault.is_some() {
            return false;
        }
        match self.every {
            None => self.sent == 0,
            Some(every) => self.sent - self.settled < self.window.max(every),
        }
    }

    /// The reply subject of the next message, which counts as sent from now on. Only while
    /// [`Self::may_send`].
    pub fn reply(&mut self) -> &str {
        debug_assert!(self.may_send(), "a message beyond the window");
        self.sent += 1;
        let operation = if self.sent == 1 { ".0.$FI" } else { ".1.$FI" };
        self.write(self.sent, operation)
    }

    /// The reply subject of an empty message that ends the batch and is not stored; the same one
    /// when it is asked again. `None` when there is nothing to end: before the first message was
    /// answered, and when the batch is over.
    pub fn close(&mut self) -> Option<&str> {
        if self.over || self.every.is_none() && self.fault.is_none() {
            return None;
        }
        self.closed = true;
        Some(self.write(self.sent + 1, ".3.$FI"))
    }

    /// The reply subject of an empty message that asks for the last flow ack again, keeps the
    /// batch alive at the server, and finds out what the server does not know of. `None` before
    /// the first message and when the batch is over.
    pub fn ping(&mut self) -> Option<&str> {
        if self.over || self.sent == 0 {
            return None;
        }
        Some(self.write(self.sent, ".4.$FI"))
    }

    /// The batch came to grief and takes no more messages: [`Self::close`] asks the server for
    /// what it kept. Closing what the server has ended itself does no harm.
    pub fn must_close(&self) -> bool {
        self.fault.is_some() && !self.closed && !self.over
    }

    /// [`Self::close`] gave its reply subject.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Every message is settled, and no answer matters any more.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Messages sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Messages that are not settled.
    pub fn in_flight(&self) -> u64 {
        self.sent - self.settled - self.alone.len() as u64
    }

    /// Messages per flow ack, as the server said last.
    pub fn every(&self) -> Option<u64> {
        self.every
    }

    /// Why the batch ended other than by [`Self::close`], or has to.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Whether an answer with this subject is to this batch.
    pub fn owns(&self, subject: &str) -> bool {
        self.asked(subject).is_some()
    }

    /// Takes in an answer, and says what it settles. Those of other batches settle nothing.
    pub fn on_answer(&mut self, subject: &str, answer: &Answer) -> Vec<Settled> {
        let mut out = Vec::new();
        let Some((seq, operation)) = self.asked(subject).filter(|_| !self.over) else {
            return out;
        };
        match answer {
            // One that was overtaken says nothing new.
            Answer::Flow { seq, .. } if *seq < self.settled => {}
            Answer::Flow { seq, every } => {
                self.every = Some(u64::from(*every).max(1));
                self.settle((*seq).min(self.sent), &How::Acked, &mut out);
            }
            Answer::Gap { expected, got } => self.fail(format!(
                "a gap ended the batch: the server expected message {expected} and got {got}"
            )),
            Answer::Committed { count, .. } => self.committed(*count, &mut out),
            Answer::Stored { .. } => self.stored(seq, operation, &mut out),
            Answer::Refused {
                code,
                text,
                seq: named,
            } => {
                let cause = cause(*code, text);
                self.fail(cause.clone());
                match operation {
                    // Answers come in the order of the messages: the server has none of this one
                    // or a later one.
                    Operation::Append if *code == UNKNOWN_BATCH => self.lost(seq, cause, &mut out),
                    Operation::Append => {
                        let seq = named.unwrap_or(seq);
                        self.settle_alone(seq, How::Refused(cause), &mut out);
                        // Nothing of the batch is at the server.
                        self.over = seq == 1 && self.sent == 1;
                    }
                    Operation::Ping if *code == UNKNOWN_BATCH => {
                        self.lost(seq + 1, cause, &mut out);
                    }
                    // Why the ping was refused may hold for the next message or not; closing tells.
                    Operation::Ping => {}
                    Operation::Close => self.lost(seq, cause, &mut out),
                }
            }
            Answer::Opened | Answer::Unreadable => {
                self.fail("an answer that cannot be read".to_owned());
            }
        }
        out
    }

    /// Ends the batch for the caller's reason, a cut connection or a silence too long: what is in
    /// flight is unknown.
    pub fn give_up(&mut self, why: &str) -> Vec<Settled> {
        let mut out = Vec::new();
        if !self.over {
            self.fail(why.to_owned());
            self.settle(self.sent, &How::Unknown(why.to_owned()), &mut out);
            self.over = true;
        }
        out
    }

    /// The server has ended the batch and holds it up to `count`.
    fn committed(&mut self, count: u64, out: &mut Vec<Settled>) {
        if count > self.sent {
            let sent = self.sent;
            out.extend(self.give_up(&format!(
                "the server ended a batch of this id with {count} messages, and this one has \
                 {sent}: the id is not unique"
            )));
            return;
        }
        self.settle(count, &How::Acked, out);
        if count < self.sent {
            self.fail(format!("the server ended the batch after message {count}"));
            let why = self.fault.clone().unwrap_or_default();
            self.settle(self.sent, &How::Refused(why), out);
        }
        self.over = true;
    }

    /// The server took a message for an ordinary publish.
    fn stored(&mut self, seq: u64, operation: Operation, out: &mut Vec<Settled>) {
        let why = "the server stored a message of the batch by itself: fast ingest needs \
                   nats-server 2.14 or newer (API level 4)";
        self.fail(why.to_owned());
        if operation == Operation::Append {
            self.settle_alone(seq, How::Acked, out);
        }
        self.settle(self.sent, &How::Unknown(why.to_owned()), out);
        self.over = true;
    }

    /// The server knows nothing of the batch: it has none of the messages from `first` on, and
    /// what became of those before was said in answers that did not come.
    fn lost(&mut self, first: u64, cause: String, out: &mut Vec<Settled>) {
        self.settle(first - 1, &How::Unknown(cause.clone()), out);
        self.settle(self.sent, &How::Refused(cause), out);
        self.over = true;
    }

    /// The first reason stands; those after it follow from it.
    fn fail(&mut self, why: String) {
        self.fault.get_or_insert(why);
    }

    /// Settles what is open up to `to`.
    fn settle(&mut self, to: u64, how: &How, out: &mut Vec<Settled>) {
        if to <= self.settled {
            return;
        }
        let within = self.alone.partition_point(|seq| *seq <= to);
        let mut first = self.settled + 1;
        for seq in self.alone.drain(..within).chain([to + 1]) {
            if first < seq {
                out.push(Settled {
                    seqs: first..=seq - 1,
                    how: how.clone(),
                });
            }
            first = seq + 1;
        }
        self.settled = to;
    }

    /// Settles one message ahead of those before it.
    fn settle_alone(&mut self, seq: u64, how: How, out: &mut Vec<Settled>) {
        if seq <= self.settled || seq > self.sent {
            return;
        }
        if let Err(at) = self.alone.binary_search(&seq) {
            self.alone.insert(at, seq);
            out.push(Settled {
                seqs: seq..=seq,
                how,
            });
        }
    }

    fn write(&mut self, seq: u64, operation: &str) -> &str {
        self.subject.truncate(self.head);
        self.subject.push_str(itoa::Buffer::new().format(seq));
        self.subject.push_str(operation);
        &self.subject
    }

    /// What the message with this reply subject asked for.
    fn asked(&self, subject: &str) -> Option<(u64, Operation)> {
        let tail = subject.strip_prefix(&self.subject[..self.head])?;
        let (seq, operation) = tail.strip_suffix(".$FI")?.split_once('.')?;
        let seq = seq.parse().ok()?;
        let (operation, last) = match operation {
            "0" | "1" => (Operation::Append, self.sent),
            "3" => (Operation::Close, self.sent + 1),
            "4" => (Operation::Ping, self.sent),
            _ => return None,
        };
        (1..=last).contains(&seq).then_some((seq, operation))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, VecDeque};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::nats::batch::read_answer;

    fn batch(flow: u32, window: u32) -> Fast {
        Fast::new("_INBOX.x", "b1", flow, window).expect("an id")
    }

    fn flow(seq: u64, every: u32) -> Answer {
        Answer::Flow { seq, every }
    }

    fn acked(first: u64, last: u64) -> Settled {
        Settled {
            seqs: first..=last,
            how: How::Acked,
        }
    }

    #[test]
    fn a_reply_subject_says_what_the_message_is() {
        let mut batch = batch(500, 1000);
        assert_eq!(batch.ping(), None);
        assert_eq!(batch.reply(), "_INBOX.x.b1.500.fail.1.0.$FI");
        assert_eq!(batch.close(), None, "who answers may not know batches");
        let settled = batch.on_answer("_INBOX.x.b1.500.fail.1.0.$FI", &flow(0, 500));
        assert_eq!(settled, []);
        assert_eq!(batch.reply(), "_INBOX.x.b1.500.fail.2.1.$FI");
        assert_eq!(batch.ping(), Some("_INBOX.x.b1.500.fail.2.4.$FI"));
        for _ in 0..2 {
            assert_eq!(batch.close(), Some("_INBOX.x.b1.500.fail.3.3.$FI"));
        }
        assert!(!batch.may_send() && !batch.is_over());
    }

    #[test]
    fn no_more_is_asked_for_than_the_window_and_the_format_hold() {
        assert_eq!(batch(500, 100).reply(), "_INBOX.x.b1.100.fail.1.0.$FI");
        assert_eq!(batch(0, 0).reply(), "_INBOX.x.b1.1.fail.1.0.$FI");
        let most = batch(u32::MAX, u32::MAX).reply().to_owned();
        assert_eq!(most, "_INBOX.x.b1.65535.fail.1.0.$FI");
    }

    #[test]
    fn acks_are_taken_by_their_sequence_and_never_go_back() {
        let mut batch = batch(10, 100);
        let first = batch.reply().to_owned();
        batch.on_answer(&first, &flow(0, 10));
        for _ in 2..=45 {
            batch.reply();
        }
        let mut hear = |seq, every| {
            let settled = batch.on_answer(&first, &flow(seq, every));
            (settled, batch.every())
        };
        let three_in_one = hear(30, 10);
        assert_eq!(three_in_one, (vec![acked(1, 30)], Some(10)));
        let overtaken = hear(20, 1);
        assert_eq!(overtaken, (vec![], Some(10)));
        let asked_again = hear(30, 5);
        assert_eq!(asked_again, (vec![], Some(5)));
        let beyond_what_was_sent = hear(90, 5);
        assert_eq!(beyond_what_was_sent, (vec![acked(31, 45)], Some(5)));
        assert_eq!(batch.in_flight(), 0);
    }

    fn refusal(code: u32) -> Answer {
        Answer::Refused {
            code,
            text: "no".to_owned(),
            seq: None,
        }
    }

    fn refused(first: u64, last: u64, code: u32) -> Settled {
        Settled {
            seqs: first..=last,
            how: How::Refused(cause(code, "no")),
        }
    }

    fn unknown(first: u64, last: u64, code: u32) -> Settled {
        Settled {
            seqs: first..=last,
            how: How::Unknown(cause(code, "no")),
        }
    }

    /// An opened batch with `sent` messages on the way, and their reply subjects.
    fn opened(sent: usize) -> (Fast, Vec<String>) {
        let mut batch = batch(50, 100);
        let mut replies = Vec::new();
        for _ in 0..sent {
            replies.push(batch.reply().to_owned());
            batch.on_answer(&replies[0], &flow(0, 50));
        }
        (batch, replies)
    }

    #[test]
    fn a_batch_whose_first_message_is_refused_never_was() {
        let mut batch = batch(10, 100);
        let first = batch.reply().to_owned();
        let settled = batch.on_answer(&first, &refusal(10_205));
        assert_eq!(settled, [refused(1, 1, 10_205)]);
        assert!(batch.is_over() && !batch.must_close());
    }

    #[test]
    fn a_refused_message_is_settled_at_once_and_the_others_by_closing() {
        let (mut batch, replies) = opened(5);
        let settled = batch.on_answer(&replies[2], &refusal(10_054));
        assert_eq!(settled, [refused(3, 3, 10_054)]);
        assert_eq!(batch.on_answer(&replies[2], &refusal(10_054)), [], "twice");
        assert!(batch.must_close() && !batch.may_send());
        let close = batch.close().expect("something to close").to_owned();
        let committed = Answer::Committed {
            batch: "b1".to_owned(),
            count: 2,
            stream_seq: 2,
            duplicate: false,
        };
        let settled = batch.on_answer(&close, &committed);
        assert_eq!(settled, [acked(1, 2), refused(4, 5, 10_054)]);
        assert!(batch.is_over());
    }

    #[test]
    fn a_batch_the_server_does_not_know_ends_at_what_it_was_asked() {
        let (mut batch, replies) = opened(8);
        let settled = batch.on_answer(&replies[5], &refusal(UNKNOWN_BATCH));
        let expected = [unknown(1, 5, UNKNOWN_BATCH), refused(6, 8, UNKNOWN_BATCH)];
        assert_eq!(settled, expected);
        assert!(batch.is_over());

        let (mut batch, _) = opened(8);
        let ping = batch.ping().expect("something to ask for").to_owned();
        batch.reply();
        let settled = batch.on_answer(&ping, &refusal(UNKNOWN_BATCH));
        let expected = [unknown(1, 8, UNKNOWN_BATCH), refused(9, 9, UNKNOWN_BATCH)];
        assert_eq!(settled, expected);
        assert!(batch.is_over());

        let (mut batch, _) = opened(8);
        let close = batch.close().expect("something to close").to_owned();
        let settled = batch.on_answer(&close, &refusal(503));
        assert_eq!(settled, [unknown(1, 8, 503)]);
        assert!(batch.is_over());
    }

    #[test]
    fn answers_to_others_say_nothing() {
        let mut batch = batch(10, 100);
        batch.reply();
        for subject in [
            "_INBOX.x.b2.10.fail.1.0.$FI",
            "_INBOX.x.b1.10.fail.2.1.$FI",
            "_INBOX.x.b1.10.fail.0.0.$FI",
            "_INBOX.x.b1.10.fail.1.7.$FI",
            "_INBOX.x.b1.10.fail.1.0",
            "_INBOX.x.b1",
        ] {
            assert!(!batch.owns(subject), "{subject}");
            assert_eq!(batch.on_answer(subject, &flow(1, 10)), [], "{subject}");
        }
        assert_eq!(batch.every(), None);
    }

    #[test]
    fn what_is_in_flight_when_it_is_given_up_is_unknown() {
        let mut batch = batch(10, 100);
        let first = batch.reply().to_owned();
        batch.on_answer(&first, &flow(0, 10));
        for _ in 2..=15 {
            batch.reply();
        }
        batch.on_answer(&first, &flow(10, 10));
        let cut = "the connection was cut".to_owned();
        let rest = Settled {
            seqs: 11..=15,
            how: How::Unknown(cut.clone()),
        };
        assert_eq!(batch.give_up(&cut), [rest]);
        assert_eq!(batch.give_up(&cut), []);
        assert!(batch.is_over() && !batch.may_send());
        assert_eq!(batch.close(), None);
        assert_eq!(batch.ping(), None);
    }

    #[test]
    fn a_batch_with_an_answer_nobody_can_read_is_closed() {
        let mut batch = batch(10, 100);
        let first = batch.reply().to_owned();
        batch.on_answer(&first, &flow(0, 10));
        batch.on_answer(&first, &Answer::Unreadable);
        assert!(batch.must_close() && !batch.may_send());
        batch.close().expect("something to close");
        assert!(!batch.must_close());
    }

    /// What happens to a batch, in a random order.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Send,
        Ping,
        /// The server takes the next message from the wire.
        Take,
        /// It refuses the next message, as one of its batch or before it looks at that.
        Refuse {
            in_batch: bool,
        },
        /// It stores this many of those it took.
        Store(u8),
        /// So many batches share the stream from now on.
        Share(u8),
        /// The client hears the next answer.
        Hear,
        LoseMessage,
        LoseAnswer,
        /// The server abandons the batch.
        Forget,
    }

    impl Event {
        fn is_lossy(self) -> bool {
            matches!(self, Self::LoseMessage | Self::LoseAnswer | Self::Forget)
        }
    }

    fn calm() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => Just(Event::Send),
            4 => Just(Event::Take),
            4 => (1u8..8).prop_map(Event::Store),
            3 => Just(Event::Hear),
            1 => (1u8..5).prop_map(Event::Share),
            1 => Just(Event::Ping),
        ]
    }

    fn rough() -> impl Strategy<Value = Event> {
        prop_oneof![
            40 => calm(),
            1 => any::<bool>().prop_map(|in_batch| Event::Refuse { in_batch }),
            1 => Just(Event::LoseMessage),
            1 => Just(Event::LoseAnswer),
            1 => Just(Event::Forget),
        ]
    }

    /// The server's side of one batch, as nats-server 2.15.1 does it.
    #[derive(Default)]
    struct Server {
        batch: Option<Taken>,
        share: u64,
        stored: BTreeSet<u64>,
        answers: VecDeque<(String, String)>,
    }

    struct Taken {
        last: u64,
        stored_to: u64,
        acked_to: u64,
        every: u64,
        most: u64,
        committing: bool,
        pending: VecDeque<(u64, String)>,
        reply: String,
    }

    const REFUSED: &str = r#""error":{"code":400,"err_code":10054,"description":"no"}"#;

    impl Server {
        fn say(&mut self, reply: &str, text: String) {
            self.answers.push_back((reply.to_owned(), text));
        }

        fn take(&mut self, reply: &str, refuse: Option<bool>) {
            let mut tokens = reply.rsplit('.').skip(1);
            let mut number = || -> u64 { tokens.next().expect("a token").parse().expect("one") };
            let (operation, seq) = (number(), number());
            let most = tokens.nth(1).expect("a token").parse().expect("a number");
            if refuse == Some(false) {
                return self.say(reply, format!("{{{REFUSED},\"stream\":\"S\",\"seq\":0}}"));
            }
            if operation == 0 {
                self.batch = Some(Taken {
                    last: 0,
                    stored_to: 0,
                    acked_to: 0,
                    every: if self.share > 1 { 1 } else { most },
                    most,
                    committing: false,
                    pending: VecDeque::new(),
                    reply: reply.to_owned(),
                });
            }
            let Some(batch) = &mut self.batch else {
                let text = r#"{"error":{"code":400,"err_code":10208,"description":"unknown"}}"#;
                return self.say(reply, text.to_owned());
            };
            if operation == 4 {
                if seq > batch.last {
                    let expected = batch.last + 1;
                    self.gap(reply, expected, seq + 1);
                }
                return self.flow(reply);
            }
            if batch.committing {
                return;
            }
            if seq != batch.last + 1 {
                let expected = batch.last + 1;
                return self.gap(reply, expected, seq);
            }
            if operation == 3 {
                return self.commit(reply);
            }
            if seq == 1 {
                self.flow(reply);
            }
            match refuse {
                None => self.append(seq, reply),
                Some(_) if seq == 1 => {
                    self.say(reply, format!("{{{REFUSED},\"stream\":\"S\",\"seq\":0}}"));
                    self.batch = None;
                }
                Some(_) => {
                    self.say(
                        reply,
                        format!("{{\"type\":\"err\",\"seq\":{seq},{REFUSED}}}"),
                    );
                    self.commit(reply);
                }
            }
        }

        fn append(&mut self, seq: u64, reply: &str) {
            let batch = self.batch.as_mut().expect("a batch");
            batch.last = seq;
            batch.pending.push_back((seq, reply.to_owned()));
        }

        fn gap(&mut self, reply: &str, expected: u64, got: u64) {
            let text = format!("{{\"type\":\"gap\",\"last_seq\":{expected},\"seq\":{got}}}");
            self.say(reply, text);
            self.commit(reply);
        }

        fn flow(&mut self, reply: &str) {
            if let Some(batch) = &self.batch {
                let (seq, every) = (batch.acked_to, batch.every);
                let text = format!("{{\"type\":\"ack\",\"seq\":{seq},\"msgs\":{every}}}");
                self.say(reply, text);
            }
        }

        fn commit(&mut self, reply: &str) {
            let batch = self.batch.as_mut().expect("a batch");
            batch.committing = true;
            if batch.pending.is_empty() {
                let count = batch.last;
                self.batch = None;
                let text = format!(r#"{{"stream":"S","seq":9,"batch":"b1","count":{count}}}"#);
                self.say(reply, text);
            }
        }

        fn store(&mut self) {
            let share = self.share.max(1);
            let Some(batch) = &mut self.batch else { return };
            let Some((seq, reply)) = batch.pending.pop_front() else {
                return;
            };
            self.stored.insert(seq);
            batch.stored_to = seq;
            batch.reply.clone_from(&reply);
            if batch.committing && batch.pending.is_empty() {
                return self.commit(&reply);
            }
            let due = (batch.stored_to - batch.acked_to) / batch.every;
            if due > 0 {
                batch.acked_to += due * batch.every;
                let most = (500 / share).max(1).min(batch.most);
                batch.every = if batch.every < most {
                    (batch.every * 2).min(most)
                } else {
                    (batch.every / 2).max(most)
                };
                self.flow(&reply);
            }
        }

        /// What it took is stored, but nobody hears of it.
        fn forget(&mut self) {
            for (seq, _) in self.batch.take().into_iter().flat_map(|b| b.pending) {
                self.stored.insert(seq);
            }
        }
    }

    /// A batch, the wire and the server.
    struct World {
        batch: Fast,
        window: u64,
        wire: VecDeque<String>,
        server: Server,
        fates: BTreeMap<u64, How>,
    }

    impl World {
        fn new(flow: u32, window: u32) -> Self {
            Self {
                batch: batch(flow, window),
                window: u64::from(window),
                wire: VecDeque::new(),
                server: Server::default(),
                fates: BTreeMap::new(),
            }
        }

        fn happen(&mut self, event: Event) {
            match event {
                Event::Send if self.batch.may_send() => {
                    let reply = self.batch.reply().to_owned();
                    self.wire.push_back(reply);
                    assert!(self.batch.in_flight() <= self.window, "beyond the window");
                }
                Event::Ping => self.wire.extend(self.batch.ping().map(str::to_owned)),
                Event::Take => self.take(None),
                Event::Refuse { in_batch } if self.refusable() => self.take(Some(in_batch)),
                Event::Store(count) => (0..count).for_each(|_| self.server.store()),
                Event::Share(share) => self.server.share = u64::from(share),
                Event::Hear => {
                    if let Some((subject, text)) = self.server.answers.pop_front() {
                        self.hear(&subject, &text);
                    }
                }
                Event::LoseMessage => drop(self.wire.pop_front()),
                Event::LoseAnswer => drop(self.server.answers.pop_front()),
                Event::Forget => self.server.forget(),
                Event::Send | Event::Refuse { .. } => {}
            }
        }

        /// The next thing on the wire is a message.
        fn refusable(&self) -> bool {
            let operation = |reply: &String| reply.rsplit('.').nth(1).map(str::to_owned);
            let next = self.wire.front().and_then(operation);
            matches!(next.as_deref(), Some("0" | "1"))
        }

        fn take(&mut self, refuse: Option<bool>) {
            if let Some(reply) = self.wire.pop_front() {
                self.server.take(&reply, refuse);
            }
        }

        fn hear(&mut self, subject: &str, text: &str) {
            let answer = read_answer(text.as_bytes(), None);
            assert_ne!(answer, Answer::Unreadable, "{text}");
            let settled = self.batch.on_answer(subject, &answer);
            for Settled { seqs, how } in settled {
                assert!(!seqs.is_empty() && *seqs.end() <= self.batch.sent());
                for seq in seqs {
                    // Later storing can neither make up for an early ack nor excuse it.
                    assert!(
                        how != How::Acked || self.server.stored.contains(&seq),
                        "{seq}"
                    );
                    let before = self.fates.insert(seq, how.clone());
                    assert_eq!(before, None, "{seq} is settled twice");
                }
            }
            let open = (1..=self.batch.sent()).filter(|s| !self.fates.contains_key(s));
            assert_eq!(self.batch.in_flight(), open.count() as u64);
        }

        /// Until nothing is on its way any more.
        fn settle_down(&mut self) {
            while !self.wire.is_empty() {
                self.happen(Event::Take);
            }
            self.happen(Event::Store(u8::MAX));
            while !self.server.answers.is_empty() {
                self.happen(Event::Hear);
            }
        }

        /// Does what a publisher does at the end of its load.
        fn end(&mut self) {
            for round in 0.. {
                self.settle_down();
                if self.batch.is_over() || self.batch.sent() == 0 {
                    break;
                }
                assert!(round < 6, "the batch does not end");
                // What was lost is asked for, and said again.
                if round % 2 == 0 && self.batch.close().is_some() {
                    let reply = self.batch.close().expect("as before").to_owned();
                    self.wire.push_back(reply);
                } else {
                    self.happen(Event::Ping);
                }
            }
            let settled: Vec<u64> = self.fates.keys().copied().collect();
            let sent: Vec<u64> = (1..=self.batch.sent()).collect();
            assert_eq!(settled, sent, "each has one fate");
            for (seq, how) in &self.fates {
                let stored = self.server.stored.contains(seq);
                assert!(
                    !stored || !matches!(how, How::Refused(_)),
                    "{seq} is stored: {how:?}"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

        #[test]
        fn whatever_happens_each_message_has_one_fate_and_it_is_true(
            flow in 1u32..30,
            window in 1u32..60,
            events in vec(rough(), 0..250),
        ) {
            let mut world = World::new(flow, window);
            for event in events {
                world.happen(event);
            }
            world.end();
        }

        #[test]
        fn where_nothing_is_lost_there_is_always_room_or_an_answer_to_come(
            flow in 1u32..30,
            window in 1u32..60,
            events in vec(calm(), 0..250),
        ) {
            let mut world = World::new(flow, window);
            for event in events {
                assert!(!event.is_lossy());
                world.happen(event);
                let quiet = world.wire.is_empty()
                    && world.server.answers.is_empty()
                    && world.server.batch.as_ref().is_none_or(|b| b.pending.is_empty());
                if quiet {
                    prop_assert!(world.batch.may_send(), "stuck at {}", world.batch.sent());
                }
            }
            world.end();
            prop_assert!(world.fates.values().all(|how| *how == How::Acked));
            prop_assert_eq!(world.server.stored.len() as u64, world.batch.sent());
        }
    }
}
