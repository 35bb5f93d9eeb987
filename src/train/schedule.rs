//! The learning rate over the steps of a training.

use serde::{Deserialize, Serialize};

/// How the learning rate goes over the training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Half a cosine from the full rate at the first step to 0 after the last one.
    #[default]
    Cosine,
    /// The full rate throughout.
    Constant,
}

impl Schedule {
    /// Learning rate of step `step` (from 0) of `n_steps`, the full rate being `learning_rate`.
    pub fn learning_rate(self, learning_rate: f64, step: u64, n_steps: u64) -> f64 {
        match self {
            Self::Cosine => learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / n_steps as f64).cos()),
            Self::Constant => learning_rate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_starts_at_the_full_rate_is_half_in_the_middle_and_ends_near_zero() {
        let at = |step| Schedule::Cosine.learning_rate(2e-4, step, 100);
        assert_eq!(at(0), 2e-4);
        assert!((at(50) - 1e-4).abs() < 1e-18);
        assert!((at(25) - 1.707_106_781_186_547_5e-4).abs() < 1e-18);
        assert!(at(99) < 1e-7 && at(99) > 0.0);
        assert_eq!(Schedule::Constant.learning_rate(2e-4, 99, 100), 2e-4);
    }
}
