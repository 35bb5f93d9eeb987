//! Kendall's tau-b in O(n log n).
//!
//! Knight (1966, "A computer method for calculating Kendall's tau with ungrouped data") counts discordant pairs as the
//! exchanges of a merge sort. This module counts them with a binary indexed tree over the MOS levels. The order of work
//! and the tie corrections are the same. The tree also accepts multiplicities, so a resample needs no sorting and no
//! copy.

use super::correlation::varies;
use super::levels::Levels;

/// The order structure of paired series. Tau-b depends on nothing else.
#[derive(Clone, Debug)]
pub(super) struct Ties {
    /// Levels of the scores.
    pub(super) scores: Levels,
    /// Levels of the MOS.
    pub(super) mos: Levels,
    /// Class of each pair; pairs that are equal in both series share a class. Classes are numbered from 0 without gaps.
    joint: Vec<u32>,
    n_joint: usize,
    /// MOS levels in ascending order of the scores, so that a walk accesses memory in order.
    walk: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    position: u32,
    score_level: u32,
    mos_level: u32,
}

impl Ties {
    pub(super) fn new(scores: Levels, mos: Levels) -> Self {
        let mut walk: Vec<Step> = scores
            .order
            .iter()
            .map(|&position| Step {
                position,
                score_level: scores.of_value[position as usize],
                mos_level: mos.of_value[position as usize],
            })
            .collect();
        walk.sort_by_key(|step| (step.score_level, step.mos_level));
        let mut joint = vec![0; walk.len()];
        let mut n_joint = 0;
        for (index, step) in walk.iter().enumerate() {
            let same = |other: &Step| (other.score_level, other.mos_level) == (step.score_level, step.mos_level);
            if index == 0 || !same(&walk[index - 1]) {
                n_joint += 1;
            }
            joint[step.position as usize] = n_joint - 1;
        }
        Self { scores, mos, joint, n_joint: n_joint as usize, walk }
    }
}

/// Tau-b of weighted pairs; `None` for a constant series. A pair of weight `w` counts as `w` equal pairs.
pub(super) fn tau_b(ties: &Ties, weights: &[u32]) -> Option<f64> {
    let (score_counts, mos_counts) = (ties.scores.counts(weights), ties.mos.counts(weights));
    if !varies(&score_counts) || !varies(&mos_counts) {
        return None;
    }
    let mut joint_counts = vec![0_u64; ties.n_joint];
    for (&class, &weight) in ties.joint.iter().zip(weights) {
        joint_counts[class as usize] += u64::from(weight);
    }
    let n_all = n_pairs(score_counts.iter().sum());
    let tied_scores: u64 = score_counts.iter().map(|&count| n_pairs(count)).sum();
    let tied_mos: u64 = mos_counts.iter().map(|&count| n_pairs(count)).sum();
    let tied_both: u64 = joint_counts.iter().map(|&count| n_pairs(count)).sum();
    let n_discordant = n_discordant(ties, weights);
    // Every pair is concordant, discordant or tied: C + D = n0 - ties in scores - ties in MOS + ties in both.
    let n_untied = n_all + tied_both - tied_scores - tied_mos;
    let difference = n_untied as f64 - 2.0 * n_discordant as f64;
    let scale = ((n_all - tied_scores) as f64 * (n_all - tied_mos) as f64).sqrt();
    Some((difference / scale).clamp(-1.0, 1.0))
}

fn n_pairs(n: u64) -> u64 {
    n * n.saturating_sub(1) / 2
}

/// The number of pairs that the scores and the MOS order in opposite ways.
fn n_discordant(ties: &Ties, weights: &[u32]) -> u64 {
    let mut tree = vec![0_u64; ties.mos.n_levels + 1];
    let (mut n_seen, mut n_discordant) = (0, 0);
    // All pairs of one score level are counted before any of them is entered: a pair tied in the scores is not
    // discordant.
    for group in ties.walk.chunk_by(|a, b| a.score_level == b.score_level) {
        for step in group {
            let weight = u64::from(weights[step.position as usize]);
            if weight > 0 {
                n_discordant += weight * (n_seen - prefix_sum(&tree, step.mos_level as usize + 1));
            }
        }
        for step in group {
            let weight = u64::from(weights[step.position as usize]);
            if weight > 0 {
                add(&mut tree, step.mos_level as usize + 1, weight);
                n_seen += weight;
            }
        }
    }
    n_discordant
}

/// Total weight on levels below `n_levels`.
fn prefix_sum(tree: &[u64], n_levels: usize) -> u64 {
    let mut sum = 0;
    let mut node = n_levels;
    while node > 0 {
        sum += tree[node];
        node &= node - 1;
    }
    sum
}

fn add(tree: &mut [u64], level_from_1: usize, weight: u64) {
    let mut node = level_from_1;
    while node < tree.len() {
        tree[node] += weight;
        node += node & node.wrapping_neg();
    }
}
