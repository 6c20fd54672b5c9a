//! The balance of a trial: what was acked against what is stored and what was delivered, counted
//! exactly from identities. Says how many; whether that breaks a promise is for `analysis`.

use std::collections::BTreeMap;

use super::seqset::Ranges;

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
    /// Not ours, or never attempted.
    pub unexpected: u64,
    /// Without an answer, and there all the same.
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
        let gone = stored
            .as_ref()
            .map(|s| undelivered.minus(s))
            .unwrap_or_default();
        let legal = legally_gone(evidence, &gone, stored.as_ref());
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
        };
        let evidence = Evidence {
            published: BTreeMap::from([(0, published)]),
            stored: Some(sub(0, 0, &BTreeSet::from([4, 5, 7, 8, 9]))),
            oldest_may_go: true,
            ..Evidence::default()
        };
        let balance = balance(&evidence);
        assert_eq!((balance.explained, balance.lost_storage), (4, 1));
    }

    #[test]
    fn strangers_and_copies_are_counted_once_however_many_read_them() {
        let published = Published {
            app: 0,
            attempted: 3,
            acked: Ranges::of(0..3),
            unknown: Ranges::default(),
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
        fn the_balance_equals_a_naive_one(
            acked in prop::collection::btree_set(0u64..60, 0..60),
            unknown in prop::collection::btree_set(0u64..60, 0..10),
            stored in prop::option::of(prop::collection::btree_set(0u64..70, 0..60)),
            read in prop::collection::vec(prop::collection::btree_set(0u64..70, 0..60), 0..3),
        ) {
            let unknown: BTreeSet<u64> = unknown.difference(&acked).copied().collect();
            let evidence = Evidence {
                published: BTreeMap::from([(3, Published { app: 1, attempted: 60, acked: set(&acked), unknown: set(&unknown) })]),
                subscriptions: read.iter().map(|r| sub(1, 3, r)).collect(),
                stored: stored.as_ref().map(|s| sub(0, 3, s)),
                oldest_may_go: false,
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
