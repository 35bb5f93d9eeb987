//! Predictors that use no pixels: the mean MOS of training images with the same generator or prompt.

use std::collections::HashMap;

/// Mean MOS per value of a column, over the training part.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupMeans {
    overall: f64,
    of_group: HashMap<String, f64>,
}

impl GroupMeans {
    /// Means over `(group, mos)` pairs. A pair without group counts only in the overall mean. `None` without pairs.
    pub fn of<'a>(training: impl Iterator<Item = (Option<&'a str>, f64)>) -> Option<Self> {
        let mut overall = Sum::default();
        let mut of_group: HashMap<&str, Sum> = HashMap::new();
        for (group, mos) in training {
            overall.add(mos);
            if let Some(group) = group {
                of_group.entry(group).or_default().add(mos);
            }
        }
        let of_group = of_group.into_iter().map(|(group, sum)| (group.to_owned(), sum.mean())).collect();
        (overall.n > 0).then(|| Self { overall: overall.mean(), of_group })
    }

    /// Mean of `group`, or of the whole training part if the group does not occur there.
    pub fn predict(&self, group: Option<&str>) -> f64 {
        group.and_then(|group| self.of_group.get(group)).copied().unwrap_or(self.overall)
    }

    /// Whether any group occurs in training. Without groups, every prediction is the same.
    pub fn has_groups(&self) -> bool {
        !self.of_group.is_empty()
    }
}

#[derive(Default)]
struct Sum {
    n: u64,
    total: f64,
}

impl Sum {
    fn add(&mut self, value: f64) {
        self.n += 1;
        self.total += value;
    }

    fn mean(&self) -> f64 {
        self.total / self.n as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unseen_group_gets_the_mean_of_all_training_images() {
        let training = [(Some("a"), 1.0), (Some("a"), 2.0), (Some("b"), 4.0), (None, 5.0)];
        let means = GroupMeans::of(training.into_iter()).expect("there are images");
        assert_eq!([Some("a"), Some("b"), Some("c"), None].map(|group| means.predict(group)), [1.5, 4.0, 3.0, 3.0]);
        assert_eq!(GroupMeans::of(std::iter::empty()), None);
    }
}
