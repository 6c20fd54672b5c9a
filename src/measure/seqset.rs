//! Exact sets of sequence numbers in bounded memory: the memory of a delivery ledger.
//!
//! A set is a watermark below which everything is present, 8 KiB bitmaps of 65,536 sequences
//! where numbers are still arriving, and short lists of holes where they have stopped. In the
//! ordered case that is one bitmap, however many billions have passed.

use std::collections::BTreeMap;
use std::ops::Range;

const CHUNK_BITS: u32 = 16;
const CHUNK: u64 = 1 << CHUNK_BITS;
const WORDS: usize = (CHUNK / 64) as usize;
/// A chunk this sparse in holes is kept as their list (2 KiB at most) instead of as a bitmap.
const MAX_HOLES: u32 = 1_024;

#[derive(Debug, Clone)]
struct Bitmap {
    words: Box<[u64; WORDS]>,
    count: u32,
}

impl Bitmap {
    fn new() -> Self {
        Self {
            words: Box::new([0; WORDS]),
            count: 0,
        }
    }

    fn insert(&mut self, at: u16) -> bool {
        let word = &mut self.words[usize::from(at) / 64];
        let bit = 1 << (at % 64);
        let new = *word & bit == 0;
        *word |= bit;
        self.count += u32::from(new);
        new
    }

    fn contains(&self, at: u16) -> bool {
        self.words[usize::from(at) / 64] & (1 << (at % 64)) != 0
    }

    fn holes(&self) -> u32 {
        CHUNK as u32 - self.count
    }
}

#[derive(Debug, Clone)]
enum Chunk {
    Bits(Bitmap),
    /// Everything but these, ascending.
    AllBut(Vec<u16>),
}

impl Chunk {
    fn insert(&mut self, at: u16) -> bool {
        match self {
            Self::Bits(bits) => bits.insert(at),
            Self::AllBut(holes) => match holes.binary_search(&at) {
                Ok(found) => {
                    holes.remove(found);
                    true
                }
                Err(_) => false,
            },
        }
    }

    fn contains(&self, at: u16) -> bool {
        match self {
            Self::Bits(bits) => bits.contains(at),
            Self::AllBut(holes) => holes.binary_search(&at).is_err(),
        }
    }

    /// The leanest form for a chunk that is no longer the newest.
    fn sealed(self) -> Self {
        match self {
            Self::Bits(bits) if bits.holes() <= MAX_HOLES => {
                Self::AllBut((0..=u16::MAX).filter(|at| !bits.contains(*at)).collect())
            }
            other => other,
        }
    }

    fn is_full(&self) -> bool {
        match self {
            Self::Bits(bits) => bits.holes() == 0,
            Self::AllBut(holes) => holes.is_empty(),
        }
    }
}

/// A set of sequence numbers.
#[derive(Debug, Clone)]
pub struct SeqSet {
    /// All chunks below this one are full.
    full_below: u64,
    /// Older chunks that are not full, or not yet joined to the full ones.
    older: BTreeMap<u64, Chunk>,
    /// Number and bits of the newest chunk, where almost every insert goes.
    newest: u64,
    bits: Bitmap,
    len: u64,
}

impl Default for SeqSet {
    fn default() -> Self {
        Self {
            full_below: 0,
            older: BTreeMap::new(),
            newest: 0,
            bits: Bitmap::new(),
            len: 0,
        }
    }
}

impl SeqSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `sequence`; false if it was there already.
    pub fn insert(&mut self, sequence: u64) -> bool {
        let (chunk, at) = (sequence >> CHUNK_BITS, (sequence & (CHUNK - 1)) as u16);
        let new = if chunk == self.newest {
            self.bits.insert(at)
        } else {
            self.insert_elsewhere(chunk, at)
        };
        self.len += u64::from(new);
        new
    }

    fn insert_elsewhere(&mut self, chunk: u64, at: u16) -> bool {
        if chunk > self.newest {
            let finished = std::mem::replace(&mut self.bits, Bitmap::new());
            if finished.count > 0 {
                self.older
                    .insert(self.newest, Chunk::Bits(finished).sealed());
            }
            self.newest = chunk;
            self.join_full();
            return self.bits.insert(at);
        }
        if chunk < self.full_below {
            return false;
        }
        let entry = self
            .older
            .entry(chunk)
            .or_insert_with(|| Chunk::Bits(Bitmap::new()));
        let new = entry.insert(at);
        if let Chunk::Bits(bits) = entry
            && bits.holes() <= MAX_HOLES / 2
        {
            let sealed = std::mem::replace(entry, Chunk::AllBut(Vec::new())).sealed();
            *entry = sealed;
        }
        if new && entry.is_full() {
            self.join_full();
        }
        new
    }

    /// Raises the watermark over the full chunks above it.
    fn join_full(&mut self) {
        while self.older.get(&self.full_below).is_some_and(Chunk::is_full) {
            self.older.remove(&self.full_below);
            self.full_below += 1;
        }
    }

    /// Whether `sequence` is in the set.
    pub fn contains(&self, sequence: u64) -> bool {
        let (chunk, at) = (sequence >> CHUNK_BITS, (sequence & (CHUNK - 1)) as u16);
        if chunk == self.newest {
            self.bits.contains(at)
        } else {
            chunk < self.full_below || self.older.get(&chunk).is_some_and(|c| c.contains(at))
        }
    }

    /// How many are in the set.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The set as ascending, disjoint, non-touching ranges.
    pub fn ranges(&self) -> Ranges {
        let mut out = Ranges::default();
        if self.full_below > 0 {
            out.push(0..self.full_below << CHUNK_BITS);
        }
        for (number, chunk) in &self.older {
            push_chunk(&mut out, *number, chunk);
        }
        if self.bits.count > 0 {
            push_bits(&mut out, self.newest, &self.bits);
        }
        out
    }

    /// Bytes held, for the bound that a soak relies on.
    pub fn memory_bytes(&self) -> usize {
        let chunk = |c: &Chunk| match c {
            Chunk::Bits(_) => WORDS * 8,
            Chunk::AllBut(holes) => holes.capacity() * 2,
        };
        size_of::<Self>() + WORDS * 8 + self.older.values().map(|c| 64 + chunk(c)).sum::<usize>()
    }
}

fn push_chunk(out: &mut Ranges, number: u64, chunk: &Chunk) {
    let base = number << CHUNK_BITS;
    match chunk {
        Chunk::Bits(bits) => push_bits(out, number, bits),
        Chunk::AllBut(holes) => {
            let mut from = base;
            for hole in holes {
                out.push(from..base + u64::from(*hole));
                from = base + u64::from(*hole) + 1;
            }
            out.push(from..base + CHUNK);
        }
    }
}

fn push_bits(out: &mut Ranges, number: u64, bits: &Bitmap) {
    let base = number << CHUNK_BITS;
    for (i, word) in bits.words.iter().enumerate() {
        let mut rest = *word;
        let mut at = base + i as u64 * 64;
        while rest != 0 {
            let skip = rest.trailing_zeros();
            let run = (rest >> skip).trailing_ones();
            at += u64::from(skip);
            out.push(at..at + u64::from(run));
            at += u64::from(run);
            rest = if skip + run >= 64 {
                0
            } else {
                rest >> (skip + run)
            };
        }
    }
}

/// Ascending, disjoint, non-touching half-open ranges of sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// One range; nothing when it is empty.
    pub fn of(range: Range<u64>) -> Self {
        let mut out = Self::default();
        out.push(range);
        out
    }

    /// Appends a range that begins at or after the end of the last one.
    fn push(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.0.push(range),
        }
    }

    /// How many sequences.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    /// No sequence at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }

    /// What is here and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut out = Self::default();
        let mut cuts = other.0.iter().peekable();
        for range in &self.0 {
            let mut from = range.start;
            while let Some(cut) = cuts.peek() {
                if cut.end <= from {
                    cuts.next();
                } else if cut.start >= range.end {
                    break;
                } else {
                    out.push(from..cut.start.max(from));
                    from = cut.end;
                    if cut.end >= range.end {
                        break;
                    }
                    cuts.next();
                }
            }
            if from < range.end {
                out.push(from..range.end);
            }
        }
        out
    }

    /// What is in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.minus(&self.minus(other))
    }

    /// What is in either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let mut all: Vec<Range<u64>> = self.0.iter().chain(&other.0).cloned().collect();
        all.sort_by_key(|r| r.start);
        let mut out: Vec<Range<u64>> = Vec::with_capacity(all.len());
        for range in all {
            match out.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => out.push(range),
            }
        }
        Self(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn naive(ranges: &Ranges) -> BTreeSet<u64> {
        ranges.iter().flat_map(Clone::clone).collect()
    }

    #[test]
    fn ten_million_with_holes_stay_below_48_kibibytes() {
        let mut set = SeqSet::new();
        for sequence in 0..10_000_000_u64 {
            if sequence % 100_003 != 5 {
                set.insert(sequence);
            }
        }
        assert!(
            set.memory_bytes() < 48 << 10,
            "{} bytes",
            set.memory_bytes()
        );
        let missing = Ranges::of(0..10_000_000).minus(&set.ranges());
        assert_eq!(missing.len(), 100);
        assert_eq!(set.len(), 10_000_000 - 100);
    }

    #[test]
    fn late_and_double_arrivals_are_told_apart() {
        let mut set = SeqSet::new();
        for sequence in (0..300_000).filter(|s| *s != 70_000) {
            assert!(set.insert(sequence));
        }
        assert!(!set.insert(3), "below the watermark is a double");
        assert!(!set.contains(70_000));
        assert!(set.insert(70_000), "a hole is filled once");
        assert!(!set.insert(70_000));
        assert_eq!(set.ranges(), Ranges::of(0..300_000));
        assert!(set.memory_bytes() < 16 << 10, "full chunks are joined");
    }

    proptest! {
        #[test]
        fn the_set_equals_a_naive_one(
            inserts in prop::collection::vec(prop_oneof![0u64..500, 65_000u64..66_000, 131_000u64..132_000, 0u64..400_000], 0..600)
        ) {
            let (mut set, mut model) = (SeqSet::new(), BTreeSet::new());
            for sequence in inserts {
                prop_assert_eq!(set.insert(sequence), model.insert(sequence));
                prop_assert!(set.contains(sequence));
            }
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert_eq!(naive(&set.ranges()), model);
        }

        #[test]
        fn range_algebra_equals_set_algebra(
            a in prop::collection::vec(0u64..120, 0..60), b in prop::collection::vec(0u64..120, 0..60)
        ) {
            let build = |v: &[u64]| { let mut s = SeqSet::new(); for x in v { s.insert(*x); } s.ranges() };
            let (ra, rb) = (build(&a), build(&b));
            let (sa, sb) = (naive(&ra), naive(&rb));
            prop_assert_eq!(naive(&ra.minus(&rb)), sa.difference(&sb).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(naive(&ra.and(&rb)), sa.intersection(&sb).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(naive(&ra.or(&rb)), sa.union(&sb).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(ra.or(&rb).len(), sa.union(&sb).count() as u64);
        }
    }
    proptest! {
        // Each case fills whole chunks.
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn dense_chunks_equal_a_naive_set(
            gaps in prop::collection::btree_set(0u64..200_000, 0..2_500),
            late in prop::collection::vec(0u64..200_000, 0..50)
        ) {
            let mut set = SeqSet::new();
            let mut model: BTreeSet<u64> = (0..200_000).filter(|s| !gaps.contains(s)).collect();
            for sequence in &model {
                set.insert(*sequence);
            }
            for sequence in late {
                prop_assert_eq!(set.insert(sequence), model.insert(sequence));
            }
            prop_assert_eq!(naive(&set.ranges()), model);
        }

    }
}
