//! The balance of a trial: what was acked against what is stored and what was delivered, counted
//! exactly from identities. Says how many; whether that breaks a promise is for `analysis`.

use std::collections::BTreeMap;

use super::seqset::{Ranges, SeqSet};

/// What is known of the messages of one publisher.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// App its messages belong to.
    pub app: u32,
    /// Sequences 0 to this were attempted.
    pub attempted: u64,
    /// Acked.
    pub acked: Ranges,
    /// Without an answer.
    pub unknown: Ranges,
    /// Refused.
    pub refused: Ranges,
    /// Of a bucket: what it keeps of them.
    pub kept: Option<Kept>,
}

/// What a bucket keeps of a publisher's messages, which are puts to its keys in turn: message i is
/// one to key i mod `keys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Keys of the publisher.
    pub keys: u64,
    /// Last puts of each key that stay.
    pub history: u64,
}

/// What one subscription received; subscribers that share a durable are one.
#[derive(Debug, Clone, Default)]
pub struct Subscription {
    /// App whose messages it receives.
    pub app: u32,
    /// What it received, by publisher.
    pub sets: BTreeMap<u32, Ranges>,
    /// Second stored copies.
    pub duplicated: u64,
    /// Deliveries again of the same stored message.
    pub redelivered: u64,
    /// Behind a later one of the same publisher.
    pub reordered: u64,
    /// Altered.
    pub corrupted: u64,
    /// Not ours.
    pub foreign: u64,
    /// Messages that more than one subscriber of the durable received.
    pub overlap: u64,
}

impl Subscription {
    /// Takes in what another subscriber of the same durable received.
    pub fn join(&mut self, other: Self) {
        for (publisher, set) in other.sets {
            let mine = self.sets.entry(publisher).or_default();
            self.overlap += mine.and(&set).len();
            *mine = mine.or(&set);
        }
        self.duplicated += other.duplicated;
        self.redelivered += other.redelivered;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.foreign += other.foreign;
    }
}

/// All that a balance is made from.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// By publisher number.
    pub published: BTreeMap<u32, Published>,
    /// All subscriptions; empty when nobody read.
    pub subscriptions: Vec<Subscription>,
    /// What a scan found in the streams, as if it were a subscription to everything.
    pub stored: Option<Subscription>,
    /// The oldest messages may legally be gone: what precedes everything stored of a publisher is
    /// no loss.
    pub oldest_may_go: bool,
    /// Published in batches that are stored whole or not at all: of one that was refused nothing may
    /// be there.
    pub atomic: bool,
}

/// The counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balance {
    /// Acked, not stored, and not received by every subscription. Zero without a scan.
    pub lost_storage: u64,
    /// Acked and, as far as is known, stored, and not delivered; summed over subscriptions.
    pub lost_delivery: u64,
    /// Acked and legally gone.
    pub explained: u64,
    /// Copies stored beyond the first.
    pub duplicated: u64,
    /// Deliveries again of the same stored message.
    pub redelivered: u64,
    /// Behind a later one of the same publisher.
    pub reordered: u64,
    /// Altered.
    pub corrupted: u64,
    /// Not ours, never attempted, or of an atomic batch that was refused.
    pub unexpected: u64,
    /// Without an answer or refused, and there all the same.
    pub recovered: u64,
    /// Distinct messages delivered, summed over subscriptions.
    pub unique: u64,
}

/// Draws the balance.
pub fn balance(evidence: &Evidence) -> Balance {
    let mut out = Balance::default();
    for (id, published) in &evidence.published {
        let stored = evidence.stored.as_ref().map(|s| set_of(s, *id));
        let subscriptions = || {
            evidence
                .subscriptions
                .iter()
                .filter(|s| s.app == published.app)
        };
        let undelivered = if evidence.subscriptions.is_empty() {
            published.acked.clone()
        } else {
            subscriptions().fold(Ranges::default(), |sum, s| {
                sum.or(&published.acked.minus(&set_of(s, *id)))
            })
        };
        // What everyone received was stored; a limit that removed it later took nothing away.
        let replaced = replaced(published, stored.as_ref());
        let gone = match &stored {
            Some(stored) => undelivered.minus(stored),
            // The stream was not read; that it gave these up is its way all the same.
            None if !evidence.subscriptions.is_empty() => undelivered.and(&replaced),
            None => Ranges::default(),
        };
        let legal = legally_gone(evidence, &gone, stored.as_ref()).or(&gone.and(&replaced));
        out.explained += legal.len();
        out.lost_storage += gone.len() - legal.len();
        let mut seen = stored.unwrap_or_default();
        for subscription in subscriptions() {
            let set = set_of(subscription, *id);
            out.lost_delivery += published.acked.minus(&gone).minus(&set).len();
            out.unique += set.len();
            seen = seen.or(&set);
        }
        out.recovered += seen.and(&published.unknown).len();
        let against = seen.and(&published.refused).len();
        if evidence.atomic {
            out.unexpected += against;
        } else {
            out.recovered += against;
        }
        out.unexpected += seen.minus(&Ranges::of(0..published.attempted)).len();
    }
    out.unexpected += never_attempted(evidence);
    for subscription in &evidence.subscriptions {
        out.redelivered += subscription.redelivered;
        out.reordered += subscription.reordered;
    }
    // What two subscribers of a durable received and the server did not deliver again is stored twice.
    out.duplicated = copies(evidence, |s| {
        s.duplicated + s.overlap.saturating_sub(s.redelivered)
    });
    out.corrupted = copies(evidence, |s| s.corrupted);
    out.unexpected += copies(evidence, |s| s.foreign);
    out
}

fn set_of(subscription: &Subscription, publisher: u32) -> Ranges {
    subscription
        .sets
        .get(&publisher)
        .cloned()
        .unwrap_or_default()
}

/// What precedes everything that is stored of a publisher, where the scenario declares that legal.
fn legally_gone(evidence: &Evidence, gone: &Ranges, stored: Option<&Ranges>) -> Ranges {
    if !evidence.oldest_may_go {
        return Ranges::default();
    }
    let oldest = stored
        .and_then(|s| s.iter().next().map(|r| r.start))
        .unwrap_or(u64::MAX);
    gone.and(&Ranges::of(0..oldest))
}

/// What a bucket gave up because later puts of the same keys took its place: all but the last puts of
/// each key. A put that was refused replaces nothing, and an unknown one only where it is stored.
fn replaced(published: &Published, stored: Option<&Ranges>) -> Ranges {
    let Some(kept) = published.kept.filter(|kept| kept.keys > 0) else {
        return Ranges::default();
    };
    let put = match stored {
        Some(stored) => published.acked.or(&published.unknown.and(stored)),
        None => published.acked.clone(),
    };
    let mut room = vec![kept.history; usize::try_from(kept.keys).unwrap_or(usize::MAX)];
    let mut open = kept.keys;
    let mut last = SeqSet::new();
    let ranges: Vec<_> = put.iter().cloned().collect();
    for sequence in ranges.into_iter().rev().flat_map(Iterator::rev) {
        let left = &mut room[(sequence % kept.keys) as usize];
        if *left > 0 {
            last.insert(sequence);
            *left -= 1;
            open -= u64::from(*left == 0);
            if open == 0 {
                break;
            }
        }
    }
    published.acked.minus(&last.ranges())
}

/// Messages in the name of publishers that do not exist, or that reached the wrong app.
fn never_attempted(evidence: &Evidence) -> u64 {
    let strangers = |s: &Subscription, app: Option<u32>| -> u64 {
        s.sets
            .iter()
            .filter(|(id, _)| {
                evidence
                    .published
                    .get(id)
                    .is_none_or(|p| app.is_some_and(|app| p.app != app))
            })
            .map(|(_, set)| set.len())
            .sum()
    };
    let read: u64 = evidence
        .subscriptions
        .iter()
        .map(|s| strangers(s, Some(s.app)))
        .sum();
    read.max(evidence.stored.as_ref().map_or(0, |s| strangers(s, None)))
}

/// Every subscription of an app sees the same copies: the one that saw most counts, and a scan
/// counts them all.
fn copies(evidence: &Evidence, count: impl Fn(&Subscription) -> u64) -> u64 {
    let mut by_app: BTreeMap<u32, u64> = BTreeMap::new();
    for subscription in &evidence.subscriptions {
        let most = by_app.entry(subscription.app).or_default();
        *most = (*most).max(count(subscription));
    }
    let read: u64 = by_app.values().sum();
    read.max(evidence.stored.as_ref().map_or(0, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::seqset::SeqSet;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(items: &BTreeSet<u64>) -> Ranges {
        let mut set = SeqSet::new();
        for item in items {
            set.insert(*item);
        }
        set.ranges()
    }

    fn sub(app: u32, publisher: u32, items: &BTreeSet<u64>) -> Subscription {
        Subscription {
            app,
            sets: BTreeMap::from([(publisher, set(items))]),
            ..Subscription::default()
        }
    }

    #[test]
    fn a_loss_is_told_apart_by_where_it_happened() {
        let published = Published {
            app: 0,
            attempted: 10,
            acked: Ranges::of(0..10),
            unknown: Ranges::default(),
            refused: Ranges::default(),
            kept: None,
        };
        let mut evidence = Evidence {
            published: BTreeMap::from([(0, published)]),
            subscriptions: vec![sub(0, 0, &(0..8).collect()), sub(0, 0, &(0..10).collect())],
            ..Evidence::default()
        };
        let balance_of = balance(&evidence);
        assert_eq!(
            (
                balance_of.lost_storage,
                balance_of.lost_delivery,
                balance_of.unique
            ),
            (0, 2, 18)
        );
        evidence.stored = Some(sub(0, 0, &(0..9).collect()));
        let balance_of = balance(&evidence);
        assert_eq!((balance_of.lost_storage, balance_of.lost_delivery), (1, 1));
    }

    #[test]
    fn only_a_missing_prefix_is_legal() {
        let published = Published {
            app: 0,
            attempted: 10,
            acked: Ranges::of(0..10),
            unknown: Ranges::default(),
            refused: Ranges::default(),
            kept: None,
        };
        let evidence = Evidence {
            published: BTreeMap::from([(0, published)]),
            stored: Some(sub(0, 0, &BTreeSet::from([4, 5, 7, 8, 9]))),
            oldest_may_go: true,
            atomic: false,
            ..Evidence::default()
        };
        let balance = balance(&evidence);
        assert_eq!((balance.explained, balance.lost_storage), (4, 1));
    }

    /// Puts of one publisher to a bucket, nobody reading; `stored` is what a scan found.
    fn bucket(keys: u64, history: u64, attempted: u64, stored: &[u64]) -> Evidence {
        let published = Published {
            app: 0,
            attempted,
            acked: Ranges::of(0..attempted),
            unknown: Ranges::default(),
            refused: Ranges::default(),
            kept: Some(Kept { keys, history }),
        };
        Evidence {
            published: BTreeMap::from([(0, published)]),
            stored: Some(sub(0, 0, &stored.iter().copied().collect())),
            ..Evidence::default()
        }
    }

    #[test]
    fn of_a_bucket_the_last_puts_of_each_key_must_be_there_and_no_others() {
        let counts = |evidence: &Evidence| {
            let balance = balance(evidence);
            (balance.explained, balance.lost_storage)
        };
        assert_eq!(counts(&bucket(3, 1, 8, &[5, 6, 7])), (5, 0));
        assert_eq!(counts(&bucket(3, 2, 8, &[2, 3, 4, 5, 6, 7])), (2, 0));
        assert_eq!(
            counts(&bucket(10, 1, 4, &[0, 1, 2, 3])),
            (0, 0),
            "fewer puts than keys"
        );
        assert_eq!(
            counts(&bucket(3, 1, 8, &[5, 7])),
            (5, 1),
            "the last put of a key is lost"
        );
        assert_eq!(
            counts(&bucket(3, 2, 8, &[3, 4, 5, 6, 7])),
            (2, 1),
            "part of a history"
        );

        let mut evidence = bucket(2, 1, 6, &[3, 4]);
        let publisher = |evidence: &mut Evidence, acked: &[u64], unknown: &[u64]| {
            let published = evidence.published.get_mut(&0).expect("the publisher");
            published.acked = set(&acked.iter().copied().collect());
            published.unknown = set(&unknown.iter().copied().collect());
        };
        publisher(&mut evidence, &[0, 1, 2, 3, 4], &[]);
        assert_eq!(
            counts(&evidence),
            (3, 0),
            "put 5 was refused, so put 3 stays"
        );
        publisher(&mut evidence, &[0, 1, 2, 3, 4], &[5]);
        assert_eq!(
            counts(&evidence),
            (3, 0),
            "put 5 is not there, so it replaced nothing"
        );
        evidence.stored = Some(sub(0, 0, &BTreeSet::from([4, 5])));
        assert_eq!(counts(&evidence), (4, 0), "it is there, and replaced put 3");
        evidence.stored = Some(sub(0, 0, &BTreeSet::from([4])));
        assert_eq!(
            counts(&evidence),
            (3, 1),
            "put 3 is gone and nothing took its place"
        );
    }

    #[test]
    fn a_reader_of_a_bucket_misses_what_was_replaced_and_not_what_stayed() {
        let mut evidence = bucket(2, 1, 6, &[]);
        evidence.stored = None;
        evidence.subscriptions = vec![sub(0, 0, &BTreeSet::from([1, 4, 5]))];
        let of = balance(&evidence);
        assert_eq!((of.lost_delivery, of.lost_storage, of.explained), (0, 0, 3));
        evidence.subscriptions = vec![sub(0, 0, &BTreeSet::from([1, 4]))];
        assert_eq!(balance(&evidence).lost_delivery, 1, "put 5 stays");
        evidence.stored = Some(sub(0, 0, &BTreeSet::from([2, 4, 5])));
        assert_eq!(
            balance(&evidence).lost_delivery,
            2,
            "put 2 was found all the same"
        );
    }

    #[test]
    fn strangers_and_copies_are_counted_once_however_many_read_them() {
        let published = Published {
            app: 0,
            attempted: 3,
            acked: Ranges::of(0..3),
            unknown: Ranges::default(),
            refused: Ranges::default(),
            kept: None,
        };
        let mut reader = sub(0, 0, &(0..4).collect());
        reader.duplicated = 2;
        reader.foreign = 1;
        let evidence = Evidence {
            published: BTreeMap::from([(0, published)]),
            subscriptions: vec![reader.clone(), reader],
            ..Evidence::default()
        };
        let balance = balance(&evidence);
        assert_eq!(balance.duplicated, 2);
        assert_eq!(
            balance.unexpected,
            1 + 1,
            "one never attempted, one foreign"
        );
    }

    proptest! {
        #[test]
        fn a_bucket_that_does_as_it_says_has_lost_nothing(
            keys in 1u64..6,
            history in 1u64..4,
            fates in prop::collection::vec(0u8..4, 0..60),
            victim in any::<prop::sample::Index>(),
        ) {
            // 0 refused, 1 unknown and not stored, 2 unknown and stored, 3 acked.
            let those = |wanted: &[u8]| -> BTreeSet<u64> {
                let all = fates.iter().zip(0..);
                all.filter(|(fate, _)| wanted.contains(fate)).map(|(_, i)| i).collect()
            };
            let mut kept: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            for put in those(&[2, 3]) {
                let of_key = kept.entry(put % keys).or_default();
                of_key.push(put);
                if of_key.len() as u64 > history {
                    of_key.remove(0);
                }
            }
            let mut stored: BTreeSet<u64> = kept.into_values().flatten().collect();
            let mut evidence = bucket(keys, history, fates.len() as u64, &[]);
            let published = evidence.published.get_mut(&0).expect("the publisher");
            published.acked = set(&those(&[3]));
            published.unknown = set(&those(&[1, 2]));
            evidence.stored = Some(sub(0, 0, &stored));
            let of = balance(&evidence);
            prop_assert_eq!(of.lost_storage, 0);
            prop_assert_eq!(of.explained, (&those(&[3]) - &stored).len() as u64);
            // Any acked put that is missing from it is a loss.
            let acked: Vec<u64> = (&stored & &those(&[3])).into_iter().collect();
            if !acked.is_empty() {
                stored.remove(victim.get(&acked));
                evidence.stored = Some(sub(0, 0, &stored));
                prop_assert_eq!(balance(&evidence).lost_storage, 1);
            }
        }

        #[test]
        fn the_balance_equals_a_naive_one(
            acked in prop::collection::btree_set(0u64..60, 0..60),
            unknown in prop::collection::btree_set(0u64..60, 0..10),
            stored in prop::option::of(prop::collection::btree_set(0u64..70, 0..60)),
            read in prop::collection::vec(prop::collection::btree_set(0u64..70, 0..60), 0..3),
        ) {
            let unknown: BTreeSet<u64> = unknown.difference(&acked).copied().collect();
            let evidence = Evidence {
                published: BTreeMap::from([(3, Published { app: 1, attempted: 60, acked: set(&acked), unknown: set(&unknown), ..Published::default() })]),
                subscriptions: read.iter().map(|r| sub(1, 3, r)).collect(),
                stored: stored.as_ref().map(|s| sub(0, 3, s)),
                oldest_may_go: false,
                atomic: false,
            };
            let got = balance(&evidence);
            let everyone = |s: &u64| !read.is_empty() && read.iter().all(|r| r.contains(s));
            let gone: BTreeSet<u64> = stored
                .as_ref()
                .map(|stored| acked.iter().filter(|s| !stored.contains(s) && !everyone(s)).copied().collect())
                .unwrap_or_default();
            prop_assert_eq!(got.lost_storage, gone.len() as u64);
            let undelivered: usize = read.iter().map(|r| acked.iter().filter(|s| !gone.contains(s) && !r.contains(s)).count()).sum();
            prop_assert_eq!(got.lost_delivery, undelivered as u64);
            let seen: BTreeSet<u64> = read.iter().chain(stored.iter()).flatten().copied().collect();
            prop_assert_eq!(got.recovered, seen.intersection(&unknown).count() as u64);
            prop_assert_eq!(got.unexpected, seen.iter().filter(|s| **s >= 60).count() as u64);
        }
    }
}
