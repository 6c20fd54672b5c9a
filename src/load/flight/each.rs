//! Messages with an ack each. Their replies name a slot of the window and its generation, so that a
//! message costs no allocation and a late ack can never be taken for another's.

use anyhow::Result;

use super::{Draft, Fate, InFlight, Settled, left_before};
use crate::nats::conn::{Conn, Inbound, Ticket};

/// A slot of the window.
struct Slot {
    reply: String,
    generation: u32,
    busy: Option<InFlight>,
}

/// The window.
pub struct Each {
    prefix: String,
    slots: Vec<Slot>,
    free: Vec<u32>,
    any: bool,
}

impl Each {
    pub(super) fn new(inbox: &str, window: u32, any: bool) -> Self {
        let prefix = format!("{inbox}.");
        let slots = (0..window)
            .map(|slot| Slot {
                reply: reply(&prefix, slot, 0),
                generation: 0,
                busy: None,
            })
            .collect();
        Self {
            prefix,
            slots,
            free: (0..window).rev().collect(),
            any,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    pub(super) fn launch(
        &mut self,
        conn: &mut Conn,
        draft: &Draft<'_>,
        entry: InFlight,
        seal: impl FnOnce(&mut [u8]),
    ) -> Result<(u64, Ticket)> {
        let number = self.free.pop().expect("only called when there is room");
        let slot = &mut self.slots[number as usize];
        slot.busy = Some(entry);
        let ticket = conn.publish(&draft.with(Some(&slot.reply)), seal)?;
        Ok((u64::from(number), ticket))
    }

    pub(super) fn entry(&mut self, place: u64) -> Option<&mut InFlight> {
        self.slots.get_mut(place as usize)?.busy.as_mut()
    }

    pub(super) fn on_answer(&mut self, answer: &Inbound, out: &mut Settled) {
        let Some((number, generation)) = slot_of(&self.prefix, answer.subject()) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(number as usize) else {
            return;
        };
        // An ack of an earlier generation is of a message that is unknown already.
        if slot.generation != generation {
            return;
        }
        if let Some(entry) = slot.busy.take() {
            self.free.push(number);
            let fate = self.read(answer, entry.repeat);
            out.push((entry, fate));
        }
    }

    fn read(&self, answer: &Inbound, repeat: bool) -> Fate {
        let payload = answer.payload();
        // A PubAck begins with its stream; everything else is looked at closely.
        if payload.starts_with(b"{\"stream\":") {
            return Fate::Acked {
                duplicate: repeat && is_duplicate(payload),
            };
        }
        match answer.status() {
            Some(503) => Fate::Refused("no responders".into()),
            _ if self.any => Fate::Acked { duplicate: false },
            _ => Fate::Refused(error_of(payload).into()),
        }
    }

    pub(super) fn give_up(&mut self, out: &mut Settled) {
        self.give_up_where(|_| true, out);
    }

    pub(super) fn give_up_late(&mut self, before_ns: u64, out: &mut Settled) {
        self.give_up_where(|entry| left_before(entry, before_ns), out);
    }

    fn give_up_where(&mut self, is_late: impl Fn(&InFlight) -> bool, out: &mut Settled) {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            if slot.busy.as_ref().is_some_and(&is_late)
                && let Some(entry) = slot.busy.take()
            {
                slot.generation = slot.generation.wrapping_add(1);
                slot.reply = reply(&self.prefix, number as u32, slot.generation);
                self.free.push(number as u32);
                out.push((entry, Fate::Unknown));
            }
        }
    }
}

fn reply(prefix: &str, slot: u32, generation: u32) -> String {
    format!("{prefix}{slot}.{generation}")
}

fn slot_of(prefix: &str, subject: &[u8]) -> Option<(u32, u32)> {
    let rest = subject.strip_prefix(prefix.as_bytes())?;
    let dot = rest.iter().position(|b| *b == b'.')?;
    Some((number(&rest[..dot])?, number(&rest[dot + 1..])?))
}

/// Whether a PubAck says that the stream knew the message; servers write a blank behind the colon.
fn is_duplicate(payload: &[u8]) -> bool {
    const KEY: &[u8] = b"\"duplicate\":";
    memchr::memmem::find(payload, KEY).is_some_and(|at| {
        payload[at + KEY.len()..]
            .trim_ascii_start()
            .starts_with(b"true")
    })
}

/// A decimal number, as `reply` writes it.
fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u32, digit: &u8| sum.checked_mul(10)?.checked_add(u32::from(digit - b'0'));
    digits.iter().try_fold(0, add)
}

#[cold]
fn error_of(payload: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(payload).ok();
    let error = parsed.as_ref().and_then(|v| v.get("error"));
    match error {
        Some(error) => {
            let code = error
                .get("err_code")
                .and_then(serde_json::Value::as_u64)
                .unwrap_or_default();
            let text = error
                .get("description")
                .and_then(serde_json::Value::as_str)
                .unwrap_or("no description");
            format!("{code} {text}")
        }
        None => "an answer that is no PubAck".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_name_their_slot_and_generation() {
        let subject = reply("_INBOX.x.", 17, 3);
        assert_eq!(slot_of("_INBOX.x.", subject.as_bytes()), Some((17, 3)));
        assert_eq!(slot_of("_INBOX.y.", subject.as_bytes()), None);
        assert_eq!(slot_of("_INBOX.x.", b"_INBOX.x.a.b"), None);
    }

    #[test]
    fn a_duplicate_is_read_with_and_without_a_blank() {
        assert!(is_duplicate(br#"{"stream":"S","seq":1,"duplicate": true}"#));
        assert!(is_duplicate(br#"{"stream":"S","seq":1,"duplicate":true}"#));
        assert!(!is_duplicate(
            br#"{"stream":"S","seq":1,"duplicate":false}"#
        ));
        assert!(!is_duplicate(br#"{"stream":"S","seq":1}"#));
    }

    #[test]
    fn refusals_keep_their_cause() {
        let body = br#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"S","seq":0}"#;
        assert_eq!(error_of(body), "10077 maximum bytes exceeded");
        assert_eq!(error_of(b"junk"), "an answer that is no PubAck");
    }
}
