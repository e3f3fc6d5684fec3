//! The points of a ring, of which a change of the set changes few.

use std::{iter, sync::Arc};

use super::labels::Labels;
use crate::{rng::SplitMix, strategy::Candidates};

/// All points in the order of their positions; at the same position, by id, so that every client has them alike.
///
/// The ring is cut into pages, which a ring that follows shares with this one if nothing changed on them, and a page into
/// buckets. A bucket stands for the upper bits of a position, so a point is the other bits and a label: four bytes.
#[derive(Debug)]
pub(super) struct Points {
    labels: Labels,
    // By label: how many points it has.
    counts: Vec<u32>,
    shape: Shape,
    pages: Vec<Arc<Page>>,
}

/// How the 32 bits of a position are divided: page, bucket, and the rest, which leaves a point as many bits for a label
/// as page and bucket have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    page_bits: u32,
    bucket_bits: u32,
}

#[derive(Clone, Debug)]
struct Page {
    // Of each bucket, and the end of the last one.
    starts: Vec<u32>,
    points: Vec<u32>,
}

/// Where a position belongs.
struct Spot {
    page: usize,
    bucket: usize,
    rest: u32,
}

/// About so many points make a page: few enough to copy it for one of them, enough to copy a list of all pages.
const PAGE: usize = 1024;
/// A set that changes more than one of so many points has all made anew.
const FEW: usize = 4;

impl Points {
    /// So many points for an endpoint of about the mean weight, not many more than `max_size` in all. What a ring had
    /// `before` is used again as far as it is the same.
    pub(super) fn new(nodes: &dyn Candidates, points: usize, max_size: usize, before: Option<&Self>) -> Self {
        let counts = counts(nodes, points, max_size);
        let size = counts.iter().map(|count| *count as usize).sum();
        if let Some(before) = before
            && let Some(next) = before.next(nodes, &counts, size)
        {
            return next;
        }
        let labels = Labels::new(nodes);
        let shape = Shape::new(labels.len(), size);
        Self { pages: shape.pages(&labels, &counts), labels, counts, shape }
    }

    /// The same with what is different in this set; none if it is so much, or so many, that all are better made anew.
    fn next(&self, nodes: &dyn Candidates, by_place: &[u32], size: usize) -> Option<Self> {
        let (labels, left) = self.labels.next(nodes);
        if !self.shape.fits(labels.len(), nodes.len(), size) {
            return None;
        }
        let mut counts = vec![0; labels.len()];
        for (&label, &count) in labels.labels().iter().zip(by_place) {
            counts[label as usize] = count;
        }
        // From so many points of an endpoint to so many: its first ones are the same.
        let mut changes = Vec::new();
        let mut known = self.counts.clone();
        known.resize(labels.len(), 0);
        for (label, id) in left {
            changes.push((label, id, std::mem::take(&mut known[label as usize]), 0));
        }
        for &label in labels.labels() {
            let (from, to) = (known[label as usize], counts[label as usize]);
            if from != to {
                changes.push((label, labels.id(label), from, to));
            }
        }
        let changed: usize = changes.iter().map(|(.., from, to)| from.abs_diff(*to) as usize).sum();
        if changed > size / FEW {
            return None;
        }
        let mut pages = self.pages.clone();
        for &(label, id, from, to) in changes.iter().filter(|(.., from, to)| to < from) {
            for position in positions(id, to, from) {
                let Spot { page, bucket, rest } = self.shape.spot(position);
                Arc::make_mut(&mut pages[page]).remove(bucket, self.shape.point(rest, label));
            }
        }
        for &(label, id, from, to) in changes.iter().filter(|(.., from, to)| from < to) {
            for position in positions(id, from, to) {
                let Spot { page, bucket, rest } = self.shape.spot(position);
                let is_before = |point: u32| {
                    let (other, whose) = self.shape.parts(point);
                    (other, labels.id(whose)) < (rest, id)
                };
                Arc::make_mut(&mut pages[page]).insert(bucket, self.shape.point(rest, label), is_before);
            }
        }
        Some(Self { labels, counts, shape: self.shape, pages })
    }

    /// For how many endpoints it is.
    pub(super) fn len(&self) -> usize {
        self.labels.labels().len()
    }

    /// Whose the points from `key` on are, all the way round: places in the set.
    pub(super) fn from(&self, key: u64) -> impl Iterator<Item = usize> {
        let Spot { page, bucket, rest } = self.shape.spot((key >> 32) as u32);
        let (before, after) = self.pages.split_at(page);
        let page = after.first();
        let (begin, end) = page.map_or((&[][..], &[][..]), |page| {
            page.points.split_at(page.first(bucket, |point| self.shape.parts(point).0 < rest))
        });
        let others = after.iter().skip(1).chain(before).flat_map(|page| &page.points);
        end.iter().chain(others).chain(begin).map(|point| self.labels.place(self.shape.parts(*point).1))
    }
}

/// How many points each endpoint has, by place in the set.
fn counts(nodes: &dyn Candidates, points: usize, max_size: usize) -> Vec<u32> {
    let weights: Vec<f64> = (0..nodes.len()).map(|i| nodes.full_weight(i)).collect();
    let n = weights.len() as f64;
    let max = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    // As whole numbers, so that the sum is the same in whatever order they come.
    let sum: u128 = weights.iter().map(|weight| u128::from((weight / max * (1_u64 << 53) as f64) as u64)).sum();
    let mean = (max * (sum as f64 / (1_u64 << 53) as f64 / n)).max(f64::MIN_POSITIVE);
    let log = mean.log2();
    let about = (log - log.round()).exp2();
    let of = |points: usize, weight: f64| {
        let points = points as f64 * about * (weight / mean).min(n);
        (points.round() as u32).max(1)
    };
    if weights.iter().all(|weight| *weight == weights[0]) {
        let fits = |points: &usize| *points == 1 || of(*points, weights[0]) as usize * weights.len() <= max_size;
        let points = iter::successors(Some(points), |points| Some(points / 2)).find(fits).unwrap_or(1);
        return vec![of(points, weights[0]); weights.len()];
    }
    // Neighbours mostly weigh the same.
    let each = |points: usize| {
        let mut last = (f64::NAN, 0);
        weights.iter().map(move |&weight| {
            if weight != last.0 {
                last = (weight, of(points, weight));
            }
            last.1
        })
    };
    let mut points = points;
    while points > 1 && each(points).map(|count| count as usize).sum::<usize>() > max_size {
        points /= 2;
    }
    each(points).collect()
}

/// The positions of an endpoint's points from one of them to another.
fn positions(id: u64, from: u32, to: u32) -> impl Iterator<Item = u32> {
    let mut hashes = SplitMix::new(id);
    (0..to).map(move |_| (hashes.next() >> 32) as u32).skip(from as usize)
}

impl Shape {
    /// For so many labels, and some more, and so many points.
    fn new(labels: usize, points: usize) -> Self {
        // One bit at least, so that a rest fits into 31.
        let bits = (labels + labels / 8 + 8).next_power_of_two().trailing_zeros();
        let page_bits = Self::page_bits(points).min(bits);
        Self { page_bits, bucket_bits: bits - page_bits }
    }

    fn page_bits(points: usize) -> u32 {
        (points / PAGE).max(1).ilog2()
    }

    const fn label_bits(self) -> u32 {
        self.page_bits + self.bucket_bits
    }

    fn fits(self, labels: usize, endpoints: usize, points: usize) -> bool {
        labels <= 1 << self.label_bits()
            && labels <= 4 * endpoints + 64
            && Self::page_bits(points).abs_diff(self.page_bits) <= 1
    }

    fn spot(self, position: u32) -> Spot {
        // In 64 bits a shift by all 32 of a position leaves nothing.
        let (position, rest_bits) = (u64::from(position), 32 - self.label_bits());
        let bucket = position >> rest_bits;
        Spot {
            page: (bucket >> self.bucket_bits) as usize,
            bucket: (bucket & ((1 << self.bucket_bits) - 1)) as usize,
            rest: (position & ((1 << rest_bits) - 1)) as u32,
        }
    }

    const fn point(self, rest: u32, label: u32) -> u32 {
        rest << self.label_bits() | label
    }

    /// Rest and label.
    const fn parts(self, point: u32) -> (u32, u32) {
        (point >> self.label_bits(), point & ((1 << self.label_bits()) - 1))
    }

    /// All points of these, sorted page by page: each fits into a near cache.
    fn pages(self, labels: &Labels, counts: &[u32]) -> Vec<Arc<Page>> {
        let all = || {
            let whose = labels.labels().iter().zip(counts);
            whose.flat_map(|(&label, &count)| positions(labels.id(label), 0, count).map(move |at| (at, label)))
        };
        let mut ends = vec![0_usize; 1 << self.page_bits];
        all().for_each(|(position, _)| ends[self.spot(position).page] += 1);
        let mut sum = 0;
        for end in &mut ends {
            (sum, *end) = (sum + *end, sum);
        }
        let mut sorted = vec![(0, 0); sum];
        for point @ (position, _) in all() {
            let end = &mut ends[self.spot(position).page];
            sorted[*end] = point;
            *end += 1;
        }
        let mut begin = 0;
        let page = |end: usize| {
            let points = &mut sorted[std::mem::replace(&mut begin, end)..end];
            points.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| labels.id(a.1).cmp(&labels.id(b.1))));
            Arc::new(self.page(points))
        };
        ends.into_iter().map(page).collect()
    }

    fn page(self, sorted: &[(u32, u32)]) -> Page {
        let mut starts = vec![0; (1 << self.bucket_bits) + 1];
        let mut points = Vec::with_capacity(sorted.len());
        for &(position, label) in sorted {
            let Spot { bucket, rest, .. } = self.spot(position);
            starts[bucket + 1] += 1;
            points.push(self.point(rest, label));
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        Page { starts, points }
    }
}

impl Page {
    /// The first point of the bucket that is not before something, or where it would be.
    fn first(&self, bucket: usize, is_before: impl Fn(u32) -> bool) -> usize {
        let (begin, end) = (self.starts[bucket] as usize, self.starts[bucket + 1] as usize);
        begin + self.points[begin..end].partition_point(|point| is_before(*point))
    }

    fn insert(&mut self, bucket: usize, point: u32, is_before: impl Fn(u32) -> bool) {
        let at = self.first(bucket, is_before);
        // One more at a time, not twice as many: a page is copied anyway.
        self.points.reserve_exact(1);
        self.points.insert(at, point);
        self.starts[bucket + 1..].iter_mut().for_each(|start| *start += 1);
    }

    fn remove(&mut self, bucket: usize, point: u32) {
        let (begin, end) = (self.starts[bucket] as usize, self.starts[bucket + 1] as usize);
        if let Some(at) = self.points[begin..end].iter().position(|known| *known == point) {
            self.points.remove(begin + at);
            self.starts[bucket + 1..].iter_mut().for_each(|start| *start -= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategy::testing::Nodes;

    fn points(weights: &[f64], points: usize, max_size: usize) -> Vec<usize> {
        let mut seen = vec![0; weights.len()];
        for place in Points::new(&Nodes::weighted(weights), points, max_size, None).from(1 << 63) {
            seen[place] += 1;
        }
        seen
    }

    /// Whose the points are from here on, by id.
    fn ids(points: &Points, nodes: &Nodes, key: u64) -> Vec<u64> {
        points.from(key).map(|place| nodes.id[place]).collect()
    }

    #[test]
    fn points_are_in_proportion_to_weights() {
        assert_eq!(points(&[1.0, 2.0, 0.5, 0.5], 100, 10_000), [100, 200, 50, 50]);
        // The mean is 1.75; next to it is 2.
        assert_eq!(points(&[1.0, 2.0, 0.5, 3.5], 100, 10_000), [50, 100, 25, 175]);
        assert_eq!(points(&[96.0, 160.0], 100, 10_000), [75, 125]);
    }

    #[test]
    fn more_endpoints_than_fit_have_half_as_many_points_each() {
        assert_eq!(points(&[1.0; 9], 100, 900), [100; 9]);
        assert_eq!(points(&[1.0; 9], 100, 899), [50; 9]);
        assert_eq!(points(&[1.0; 9], 100, 2), [1; 9], "but one at least");
    }

    #[test]
    fn every_weight_there_can_be_is_bounded() {
        let seen = points(&[f64::MAX, f64::MAX, 5e-324, 1.0], 512, 1 << 20);
        assert_eq!((seen[2], seen[3]), (1, 1));
        assert!(seen[0] == seen[1] && seen[0] < 4 * 512, "{seen:?}");
        assert!(points(&[5e-324; 3], 512, 1 << 20).iter().sum::<usize>() < 1 << 20);
    }

    #[test]
    fn the_ring_is_a_circle_in_the_order_of_positions() {
        let nodes = Nodes::open(50);
        let ring = Points::new(&nodes, 100, 10_000, None);
        let mut sorted: Vec<(u32, u64)> =
            nodes.id.iter().flat_map(|id| positions(*id, 0, 100).map(move |position| (position, *id))).collect();
        sorted.sort_unstable();
        for key in [0, 1 << 40, 77 << 50, u64::MAX, u64::from(sorted[17].0) << 32, u64::from(sorted[17].0 + 1) << 32] {
            let first = sorted.partition_point(|(position, _)| u64::from(*position) < key >> 32);
            let round: Vec<u64> = sorted[first..].iter().chain(&sorted[..first]).map(|(_, id)| *id).collect();
            assert_eq!(ids(&ring, &nodes, key), round);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_ring_that_followed_changes_is_the_one_that_is_made_anew(
            sets in prop::collection::vec(prop::collection::btree_map(0..300_u64, 1..4_u32, 40..200), 2..6),
            small in prop::collection::vec((any::<bool>(), 0..300_u64), 1..20),
            points in 1..80_usize,
            reversed: bool,
        ) {
            let mut steps = sets;
            // And by one each, as sets mostly change.
            for (adds, id) in small {
                let mut next = steps.last().unwrap().clone();
                if adds { next.insert(id, 1); } else { next.remove(&id); }
                steps.push(next);
            }
            let mut ring: Option<Points> = None;
            for (step, set) in steps.iter().enumerate() {
                let mut of: Vec<_> = set.iter().map(|(id, weight)| (SplitMix::new(*id).next(), f64::from(*weight))).collect();
                if reversed && step % 2 == 1 {
                    of.reverse();
                }
                let nodes = Nodes {
                    id: of.iter().map(|(id, _)| *id).collect(),
                    ..Nodes::weighted(&of.iter().map(|(_, weight)| *weight).collect::<Vec<_>>())
                };
                let next = Points::new(&nodes, points, 4_000, ring.as_ref());
                let anew = Points::new(&nodes, points, 4_000, None);
                for key in [0, 1 << 62, u64::MAX] {
                    prop_assert_eq!(ids(&next, &nodes, key), ids(&anew, &nodes, key));
                }
                ring = Some(next);
            }
        }

        #[test]
        fn points_at_one_position_are_in_the_order_of_ids(ids in prop::collection::hash_set(any::<u64>(), 2..20)) {
            // As if all hashed alike.
            let (shape, mut sorted) = (Shape::new(ids.len(), ids.len()), ids.iter().copied().collect::<Vec<_>>());
            let nodes = Nodes { id: sorted.clone(), ..Nodes::open(sorted.len()) };
            let labels = Labels::new(&nodes);
            let mut page = shape.page(&[]);
            for label in labels.labels() {
                let is_before = |point: u32| labels.id(shape.parts(point).1) < labels.id(*label);
                page.insert(0, shape.point(7, *label), is_before);
            }
            sorted.sort_unstable();
            let order: Vec<u64> = page.points.iter().map(|point| labels.id(shape.parts(*point).1)).collect();
            prop_assert_eq!(order, sorted);
        }
    }
}
