//! The learning rate over the steps of a training.

use serde::{Deserialize, Serialize};

/// Steps from the full rate to 0, and the same number back, in the published code.
const OFFICIAL_T_MAX: u64 = 50;

/// The course of the learning rate over the training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Half a cosine from the full rate at the first step to 0 after the last one.
    #[default]
    Cosine,
    /// The full rate throughout.
    Constant,
    /// The published code's schedule: a cosine of period 100 steps between the full rate and 0 (`CosineAnnealingLR`
    /// with `T_max` 50, stepped per batch and not per epoch).
    Official,
}

impl Schedule {
    /// Learning rate of step `step` (from 0) of `n_steps`. `learning_rate` is the full rate.
    pub fn learning_rate(self, learning_rate: f64, step: u64, n_steps: u64) -> f64 {
        match self {
            Self::Cosine => learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / n_steps as f64).cos()),
            Self::Constant => learning_rate,
            Self::Official => {
                let phase = (step % (2 * OFFICIAL_T_MAX)) as f64 / OFFICIAL_T_MAX as f64;
                learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * phase).cos())
            }
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
        let official = |step| Schedule::Official.learning_rate(1e-5, step, 7830);
        assert_eq!((official(0), official(100), official(7800)), (1e-5, 1e-5, 1e-5));
        assert!((official(25) - 5e-6).abs() < 1e-18 && official(50) < 1e-18 && (official(75) - 5e-6).abs() < 1e-18);
        assert_eq!(Schedule::Constant.learning_rate(2e-4, 99, 100), 2e-4);
    }
}
