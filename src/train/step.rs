//! One step of training: forward, backward, update.

use tch::{Kind, Tensor};

use super::optimiser::{Adam, Gradient};
use agiqa_nets::fusion::{FusionHead, ProjectionMasks};

/// Squared error of a batch before the update, and its predictions' finiteness.
pub(super) struct StepLoss {
    /// Sum over the batch of squared errors, on the scale trained on.
    pub(super) sum: f64,
}

/// Updates `head` on one batch.
///
/// # Shapes
/// - `inputs`: `(b, d)` each, standardised and dropped out as the step wants them
/// - `targets`: `(b,)`
///
/// A sum that is not finite is returned before anything is updated.
pub(super) fn step(
    head: &FusionHead,
    adam: &mut Adam,
    inputs: &[Tensor; 3],
    masks: Option<&ProjectionMasks>,
    targets: &Tensor,
    learning_rate: f64,
) -> StepLoss {
    let [f_a, f_b, f_1] = inputs;
    let output = head.forward(f_a, f_b, f_1, masks);
    let error = &output.score - targets; // (b,)
    let sum = error.square().sum(Kind::Double).double_value(&[]);
    if !sum.is_finite() {
        return StepLoss { sum };
    }
    let n = error.size()[0] as f64;
    let gradients = head.backward(&output, masks, &(error * (2.0 / n)));
    let over_batch = |tensor: &Tensor| tensor.sum_dim_intlist([0_i64].as_slice(), false, Kind::Float);
    let product = |d_output, inputs| Gradient::Product { d_output, inputs };
    adam.step(
        learning_rate,
        &[
            product(&gradients.semantic, f_a),
            Gradient::Whole(over_batch(&gradients.semantic)),
            product(&gradients.coherence, f_b),
            Gradient::Whole(over_batch(&gradients.coherence)),
            product(&gradients.quality, f_1),
            Gradient::Whole(over_batch(&gradients.quality)),
            product(&gradients.gate, &output.concatenated),
            Gradient::Whole(over_batch(&gradients.gate)),
            product(&gradients.output, &output.fused),
            Gradient::Whole(over_batch(&gradients.output)),
        ],
    );
    StepLoss { sum }
}
