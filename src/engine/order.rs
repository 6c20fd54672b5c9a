//! In which order trials run: randomised complete blocks within groups of cells that share a
//! target, so that servers are kept as long as they may be and drift hits all cells alike.

use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom as _;

use crate::scenario::model::{Cell, Target};

/// A trial to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Unique in the run, from 0.
    pub trial: u32,
    /// Block.
    pub block: u32,
    /// Index of the cell.
    pub cell: usize,
}

/// Cells that share a target, and the order of their trials.
#[derive(Debug, Clone)]
pub struct Group {
    /// The target.
    pub target: Target,
    /// Indices of its cells.
    pub cells: Vec<usize>,
    /// Trials in the order they run.
    pub slots: Vec<Slot>,
}

/// Orders `repeat` blocks of all `cells`; the same seed gives the same order.
pub fn order(cells: &[Cell], repeat: u32, seed: u64) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (index, cell) in cells.iter().enumerate() {
        match groups.iter_mut().find(|g| g.target == cell.spec.target) {
            Some(group) => group.cells.push(index),
            None => groups.push(Group {
                target: cell.spec.target.clone(),
                cells: vec![index],
                slots: Vec::new(),
            }),
        }
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut trial = 0;
    for group in &mut groups {
        for block in 0..repeat {
            let mut shuffled = group.cells.clone();
            shuffled.shuffle(&mut rng);
            for cell in shuffled {
                group.slots.push(Slot { trial, block, cell });
                trial += 1;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Overrides, Source, load};

    fn cells() -> Vec<Cell> {
        let text = "name = \"x\"\n[workload]\nduration = \"1s\"\n[matrix]\n\
                    publish.mode = [\"sync\", \"async\"]\ntarget.servers = [1, 3]\n";
        let source = Source {
            path: None,
            text: text.to_owned(),
        };
        load(&source, &Overrides::default())
            .expect("a valid scenario")
            .cells
    }

    #[test]
    fn each_block_holds_each_cell_of_a_target_once() {
        let groups = order(&cells(), 5, 42);
        assert_eq!(groups.len(), 2, "one server and three");
        for group in &groups {
            for block in 0..5 {
                let mut ran: Vec<usize> = group
                    .slots
                    .iter()
                    .filter(|s| s.block == block)
                    .map(|s| s.cell)
                    .collect();
                ran.sort_unstable();
                assert_eq!(ran, group.cells);
            }
        }
        let trials: Vec<u32> = groups
            .iter()
            .flat_map(|g| &g.slots)
            .map(|s| s.trial)
            .collect();
        assert_eq!(trials, (0..20).collect::<Vec<_>>(), "unique in the run");
    }

    #[test]
    fn the_seed_decides_the_order() {
        let slots = |seed| -> Vec<Slot> {
            order(&cells(), 8, seed)
                .into_iter()
                .flat_map(|g| g.slots)
                .collect()
        };
        assert_eq!(slots(1), slots(1));
        assert_ne!(slots(1), slots(2));
    }
}
