//! An isolation forest: how easily a point is separated from all others.
//!
//! Liu, Ting, Zhou, "Isolation Forest", ICDM 2008. Own code: of the crates there are, one
//! takes whole numbers only and pulls a CSV reader in, the other has no seed and can't say
//! what made a score; the algorithm is a page long.
//!
//! The same seed and points give the same scores. A score says how odd a point is among these
//! points, not that it does harm: nothing is ever blocked on it alone.

/// Trees; the paper finds path lengths settled by then.
pub const TREES: usize = 100;
/// Points that a tree is built of (the paper's subsampling size).
pub const SAMPLE: usize = 256;
/// Points that are walked through one tree after the other: they and a tree stay in the cache.
const BLOCK: usize = 512;
/// The feature of a leaf.
const LEAF: u16 = u16::MAX;
/// Euler's constant.
const EULER: f64 = 0.577_215_664_901_532_9;

/// A forest over points of `N` features.
#[derive(Debug, Clone)]
pub struct Forest<const N: usize> {
    trees: Vec<Vec<Node>>,
    /// What a path is compared with: the mean one of an unsuccessful search among the sample.
    normal: f64,
}

/// A split: points whose feature is below the value go to the next node, others to `right`. Or a
/// leaf: the rest of the path, which is expected from the points of the sample that ended here.
/// Sixteen bytes, because scoring is mostly waiting for them.
#[derive(Debug, Clone, Copy)]
struct Node {
    value: f64,
    feature: u16,
    right: u16,
}

impl<const N: usize> Forest<N> {
    /// Builds a forest. `None` for fewer than two points.
    #[must_use]
    pub fn new(points: &[[f64; N]], seed: u64) -> Option<Self> {
        if points.len() < 2 {
            return None;
        }
        let mut random = Random(seed);
        let size = points.len().min(SAMPLE);
        let height = usize::BITS - (size - 1).leading_zeros();
        let mut order: Vec<usize> = (0..points.len()).collect();
        let trees = (0..TREES)
            .map(|_| {
                // The first `size` of a shuffle.
                for place in 0..size {
                    let other = place + random.below(order.len() - place);
                    order.swap(place, other);
                }
                let mut sample: Vec<&[f64; N]> =
                    order.iter().take(size).filter_map(|&index| points.get(index)).collect();
                let mut nodes = Vec::new();
                grow(&mut sample, height, &mut random, &mut nodes);
                nodes
            })
            .collect();
        Some(Self { trees, normal: expected_path(size) })
    }

    /// 0 to 1: about 0.5 for an ordinary point, towards 1 for one that few cuts separate.
    #[must_use]
    pub fn score(&self, point: &[f64; N]) -> f64 {
        self.score_of(self.trees.iter().map(|tree| path(tree, point)).sum())
    }

    /// The score of the length of all paths together.
    fn score_of(&self, paths: f64) -> f64 {
        2f64.powf(-(paths / self.trees.len() as f64) / self.normal)
    }

    /// The score of each point: the same as one by one, in a fraction of the time.
    #[must_use]
    pub fn scores(&self, points: &[[f64; N]]) -> Vec<f64> {
        let mut scores = vec![0.0; points.len()];
        for (points, paths) in points.chunks(BLOCK).zip(scores.chunks_mut(BLOCK)) {
            for tree in &self.trees {
                for (point, whole) in points.iter().zip(paths.iter_mut()) {
                    *whole += path(tree, point);
                }
            }
        }
        for score in &mut scores {
            *score = self.score_of(*score);
        }
        scores
    }

    /// How much lower the score were with each feature at its `usual` value: what made the
    /// score.
    #[must_use]
    pub fn explain(&self, point: &[f64; N], usual: &[f64; N]) -> [f64; N] {
        let score = self.score(point);
        std::array::from_fn(|feature| {
            let mut without = *point;
            if let (Some(place), Some(value)) = (without.get_mut(feature), usual.get(feature)) {
                *place = *value;
            }
            score - self.score(&without)
        })
    }
}

/// Builds a tree of a sample; children follow their parent, the left one at once.
fn grow<const N: usize>(
    sample: &mut [&[f64; N]],
    height: u32,
    random: &mut Random,
    nodes: &mut Vec<Node>,
) {
    let leaf = Node { value: expected_path(sample.len()), feature: LEAF, right: 0 };
    if height == 0 || sample.len() < 2 {
        return nodes.push(leaf);
    }
    // Only features that differ can be cut.
    let mut ranges = [(0usize, 0.0, 0.0); N];
    let mut count = 0;
    for feature in 0..N {
        let values = sample.iter().map(|point| point[feature]);
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        if low < high {
            ranges[count] = (feature, low, high);
            count += 1;
        }
    }
    if count == 0 {
        return nodes.push(leaf);
    }
    let (feature, low, high) = ranges[random.below(count)];
    let value = low + (high - low) * random.share();
    // In (low, high]: both sides have a point.
    let value = if value > low { value } else { high };
    let mut left = 0;
    for place in 0..sample.len() {
        if sample[place][feature] < value {
            sample.swap(place, left);
            left += 1;
        }
    }
    let at = nodes.len();
    nodes.push(leaf);
    let (lower, upper) = sample.split_at_mut(left);
    grow(lower, height - 1, random, nodes);
    // A tree over a sample of 256 has at most 511 nodes.
    let right = u16::try_from(nodes.len()).unwrap_or(u16::MAX);
    grow(upper, height - 1, random, nodes);
    nodes[at] = Node { value, feature: u16::try_from(feature).unwrap_or(LEAF), right };
}

fn path<const N: usize>(tree: &[Node], point: &[f64; N]) -> f64 {
    let (mut at, mut depth) = (0, 0.0);
    while let Some(Node { value, feature, right }) = tree.get(at) {
        // Whatever is no feature is a leaf.
        let Some(own) = point.get(usize::from(*feature)) else { return depth + value };
        at = if own < value { at + 1 } else { usize::from(*right) };
        depth += 1.0;
    }
    depth
}

/// c(n) of the paper: the mean path of an unsuccessful search in a binary search tree of `n`.
fn expected_path(n: usize) -> f64 {
    match n {
        0 | 1 => 0.0,
        2 => 1.0,
        n => {
            let n = n as f64;
            2.0 * ((n - 1.0).ln() + EULER) - 2.0 * (n - 1.0) / n
        }
    }
}

/// SplitMix64: enough for cuts, and the same everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `most`, which is not 0.
    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % most as u64).unwrap_or(0)
    }

    /// In 0..1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use super::Random;

    /// Numbers for tests.
    pub(crate) struct Numbers(Random);

    impl Numbers {
        pub(crate) fn new(seed: u64) -> Self {
            Self(Random(seed))
        }

        pub(crate) fn share(&mut self) -> f64 {
            self.0.share()
        }

        /// About normal with deviation 1: the sum of twelve.
        pub(crate) fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.share()).sum::<f64>() - 6.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::Numbers;
    use super::*;

    fn cloud(seed: u64) -> Vec<[f64; 3]> {
        let mut numbers = Numbers::new(seed);
        (0..1_000).map(|_| [numbers.normal(), numbers.normal(), numbers.normal()]).collect()
    }

    #[test]
    fn what_lies_apart_scores_higher_and_its_feature_is_named() {
        let points = cloud(1);
        let forest = Forest::new(&points, 7).unwrap();
        let apart = [0.0, 9.0, 0.0];
        assert!(forest.score(&apart) > 0.55, "{}", forest.score(&apart));
        assert!(forest.score(&[0.0; 3]) < 0.5, "{}", forest.score(&[0.0; 3]));
        let made = forest.explain(&apart, &[0.0; 3]);
        assert!(made[1] > 0.1 && made[1] > made[0] && made[1] > made[2], "{made:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_scores() {
        let points = cloud(2);
        let score = |seed| Forest::new(&points, seed).unwrap().score(&points[5]);
        assert_eq!(score(3).to_bits(), score(3).to_bits());
    }

    #[test]
    fn many_points_score_as_they_do_one_by_one() {
        let points = cloud(3);
        let forest = Forest::new(&points, 5).unwrap();
        let bits = |scores: Vec<f64>| scores.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        let one_by_one = points.iter().map(|point| forest.score(point)).collect();
        assert_eq!(bits(forest.scores(&points)), bits(one_by_one));
        assert!(forest.scores(&[]).is_empty());
    }

    #[test]
    fn equal_points_are_all_ordinary_and_too_few_are_none() {
        let forest = Forest::new(&[[1.0, 2.0]; 300], 1).unwrap();
        assert!((forest.score(&[1.0, 2.0]) - 0.5).abs() < 1e-9);
        assert!(Forest::new(&[[1.0, 2.0]], 1).is_none());
    }

    #[test]
    fn expected_paths_are_those_of_the_paper() {
        assert!((expected_path(2) - 1.0).abs() < 1e-12);
        assert!((expected_path(256) - 10.244_770_920_118_63).abs() < 1e-9);
    }
}
