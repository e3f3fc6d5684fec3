//! From a bound tree to the share of the traffic that each leaf gets, and a pick by it.

use crate::NameTree;

/// The leaves of a tree with the shares of traffic that they get, ready to be picked from.
///
/// A leaf's share is the product, from the root down, of its branch's weight over the sum of its siblings'. If all weights
/// of a union are zero its branches share equally; branches of infinite weight share equally and leave nothing for finite
/// ones. What lands on a branch without a name (`~`, `!` or `$`) is unavailable: nobody else gets it, as in Finagle 21.4.
///
/// Built once per tree, by the alias method (Walker 1977; Vose 1991). A pick then costs one multiplication and one
/// comparison, whatever the number of leaves, and allocates nothing.
///
/// ```
/// # use linkerd_dtab::{Distribution, NameTree, Path};
/// let tree: NameTree<Path> = "3 * /a & /b".parse()?;
/// let distribution = Distribution::new(&tree);
/// assert_eq!(distribution.leaves()[0].1, 0.75);
/// assert_eq!(distribution.pick(u64::MAX), Some(&"/a".parse()?));
/// # Ok::<(), linkerd_dtab::ParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Distribution<T> {
    leaves: Vec<(T, f64)>,
    unavailable: f64,
    slots: Box<[Slot]>,
}

/// A column of the alias table: below the cut one outcome, from it on another.
#[derive(Clone, Copy, Debug)]
struct Slot {
    cut: u64,
    below: Option<usize>,
    above: Option<usize>,
}

impl<T: Clone> Distribution<T> {
    /// The distribution of traffic over the leaves of `tree`, each as often as it occurs.
    ///
    /// Of alternatives, which a bound tree has none of, the first that is not negative counts.
    #[must_use]
    pub fn new(tree: &NameTree<T>) -> Self {
        let mut distribution = Self { leaves: Vec::new(), unavailable: 0.0, slots: Box::default() };
        distribution.add(tree, 1.0);
        distribution.slots = slots(&distribution.leaves, distribution.unavailable);
        distribution
    }

    fn add(&mut self, tree: &NameTree<T>, share: f64) {
        match tree {
            NameTree::Leaf(leaf) => self.leaves.push((leaf.clone(), share)),
            NameTree::Neg | NameTree::Fail | NameTree::Empty => self.unavailable += share,
            NameTree::Alt(trees) => match trees.iter().find(|tree| !matches!(tree, NameTree::Neg)) {
                Some(tree) => self.add(tree, share),
                None => self.unavailable += share,
            },
            NameTree::Union(branches) if branches.is_empty() => self.unavailable += share,
            NameTree::Union(branches) => {
                let shares = normalized(branches.iter().map(|branch| branch.weight).collect());
                for (branch, part) in branches.iter().zip(shares) {
                    self.add(&branch.tree, share * part);
                }
            }
        }
    }
}

impl<T> Distribution<T> {
    /// The leaves from left to right, each with its share of all traffic, from 0 to 1.
    pub fn leaves(&self) -> &[(T, f64)] {
        &self.leaves
    }

    /// The share of the traffic that lands where there is no name.
    pub fn unavailable(&self) -> f64 {
        self.unavailable
    }

    /// Picks a leaf by its share; `None` where there is no name. A leaf whose share is zero is never picked.
    ///
    /// `random` are 64 uniform random bits, used whole: two picks with the same bits are the same.
    pub fn pick(&self, random: u64) -> Option<&T> {
        self.pick_index(random).map(|index| &self.leaves[index].0)
    }

    /// The same as an index into [`leaves`](Self::leaves).
    pub fn pick_index(&self, random: u64) -> Option<usize> {
        // One draw for both: the high half of the product is the column, the low half the height in it.
        let product = u128::from(random) * self.slots.len() as u128;
        let slot = self.slots.get((product >> 64) as usize)?;
        if (product as u64) < slot.cut { slot.below } else { slot.above }
    }
}

// Weights as shares of one.
fn normalized(mut weights: Vec<f64>) -> Vec<f64> {
    // Not a number, or negative: nothing a parser makes.
    for weight in &mut weights {
        *weight = weight.max(0.0);
    }
    let largest = weights.iter().copied().fold(0.0, f64::max);
    for weight in &mut weights {
        *weight = match largest {
            0.0 => 1.0,
            f64::INFINITY => f64::from(u8::from(*weight == f64::INFINITY)),
            // Dividing before summing: large weights would overflow.
            _ => *weight / largest,
        };
    }
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

fn slots<T>(leaves: &[(T, f64)], unavailable: f64) -> Box<[Slot]> {
    let outcomes = leaves.iter().enumerate().map(|(i, (_, share))| (Some(i), *share)).chain([(None, unavailable)]);
    // Without those that are never picked: rounding must not give them a column.
    let mut heights: Vec<_> = outcomes.filter(|(_, share)| *share > 0.0).collect();
    let columns = heights.len() as f64;
    for (_, height) in &mut heights {
        *height *= columns;
    }
    let (mut low, mut high): (Vec<_>, Vec<_>) = heights.into_iter().partition(|(_, height)| *height < 1.0);
    let mut slots = Vec::with_capacity(low.len() + high.len());
    while let Some((below, height)) = low.pop() {
        let Some((above, surplus)) = high.pop() else {
            low.push((below, height));
            break;
        };
        slots.push(Slot { cut: cut(height), below, above });
        let left = surplus - (1.0 - height);
        if left < 1.0 { low.push((above, left)) } else { high.push((above, left)) }
    }
    // What is left over is full but for rounding.
    slots.extend(low.into_iter().chain(high).map(|(only, _)| Slot { cut: 0, below: only, above: only }));
    slots.into()
}

// A height below one as a threshold for 64 random bits. The cast saturates.
fn cut(height: f64) -> u64 {
    (height * 2_f64.powi(64)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Path, Weighted};

    fn picks(tree: &str) -> Vec<String> {
        let distribution = Distribution::new(&tree.parse::<NameTree<Path>>().unwrap());
        let picks = (0..4_u64).map(|i| distribution.pick(i << 62 | 1 << 61));
        picks.map(|pick| pick.map_or_else(|| "none".to_owned(), ToString::to_string)).collect()
    }

    #[test]
    fn a_single_name_is_always_picked() {
        assert_eq!(picks("/a"), ["/a"; 4]);
        assert_eq!(Distribution::new(&NameTree::Leaf(7)).pick(u64::MAX), Some(&7));
        assert_eq!(Distribution::new(&NameTree::Leaf(7)).pick(0), Some(&7));
    }

    #[test]
    fn nothing_is_picked_where_there_is_no_name() {
        assert_eq!(picks("~"), ["none"; 4]);
        assert_eq!(picks("!"), ["none"; 4]);
        assert_eq!(picks("1*/a & 0*$"), ["/a"; 4]);
        assert_eq!(picks("0*/a & 1*$"), ["none"; 4]);
        let mut half = picks("/a & $");
        half.sort();
        assert_eq!(half, ["/a", "/a", "none", "none"]);
    }

    #[test]
    fn weights_of_zero_share_and_infinite_ones_take_all() {
        let mut both = picks("0*/a & 0*/b");
        both.sort();
        assert_eq!(both, ["/a", "/a", "/b", "/b"]);
        assert_eq!(picks(&format!("{}*/a & /b", "9".repeat(400))), ["/a"; 4]);
        let huge = NameTree::Union(vec![
            Weighted::new(f64::MAX, NameTree::Leaf("a")),
            Weighted::new(f64::MAX, NameTree::Leaf("b")),
        ]);
        assert_eq!(Distribution::new(&huge).leaves(), [("a", 0.5), ("b", 0.5)]);
    }
}
