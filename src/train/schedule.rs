//! The learning rate over the steps of a training.

use serde::{Deserialize, Serialize};

/// Steps from the full rate to 0, and the same number back, in the published code.
const OFFICIAL_T_MAX: u64 = 50;

/// Epochs between two falls of the rate in steps, and what each leaves of it.
const STEP_EPOCHS: u64 = 10;
const STEP_FACTOR: f64 = 0.9;

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
    /// The full rate, times 0.9 after every 10 epochs, as StairIQA's authors train.
    Steps,
}

impl Schedule {
    /// Learning rate of step `step` (from 0) of `n_steps` in `n_epochs`. `learning_rate` is the full rate.
    pub fn learning_rate(self, learning_rate: f64, step: u64, n_steps: u64, n_epochs: u32) -> f64 {
        match self {
            Self::Cosine => learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / n_steps as f64).cos()),
            Self::Constant => learning_rate,
            Self::Official => {
                let phase = (step % (2 * OFFICIAL_T_MAX)) as f64 / OFFICIAL_T_MAX as f64;
                learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * phase).cos())
            }
            Self::Steps => {
                let epoch = step * u64::from(n_epochs) / n_steps;
                learning_rate * STEP_FACTOR.powi((epoch / STEP_EPOCHS) as i32)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_starts_at_the_full_rate_is_half_in_the_middle_and_ends_near_zero() {
        let at = |step| Schedule::Cosine.learning_rate(2e-4, step, 100, 10);
        assert_eq!(at(0), 2e-4);
        assert!((at(50) - 1e-4).abs() < 1e-18);
        assert!((at(25) - 1.707_106_781_186_547_5e-4).abs() < 1e-18);
        assert!(at(99) < 1e-7 && at(99) > 0.0);
        let official = |step| Schedule::Official.learning_rate(1e-5, step, 7830, 30);
        assert_eq!((official(0), official(100), official(7800)), (1e-5, 1e-5, 1e-5));
        assert!((official(25) - 5e-6).abs() < 1e-18 && official(50) < 1e-18 && (official(75) - 5e-6).abs() < 1e-18);
        assert_eq!(Schedule::Constant.learning_rate(2e-4, 99, 100, 10), 2e-4);
        let steps = |step| Schedule::Steps.learning_rate(1.0, step, 75, 25);
        assert_eq!((steps(29), steps(30), steps(59)), (1.0, 0.9, 0.9));
        assert!((steps(60) - 0.81).abs() < 1e-12);
    }
}
