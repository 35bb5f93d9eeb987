//! The file of a fitted regression.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use super::{Kernel, Scorer};
use crate::trained_head::{HeadError, Standardisation, tensors_from_bytes, tensors_to_bytes};

/// The name of the metadata of a file.
const HEADER: &str = "agiqa.kernel_ridge";

/// Everything of a kernel ridge regression but its vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// γ; 0 for the linear kernel.
    pub gamma: f64,
    /// λ, with what was added for want of precision.
    pub lambda: f64,
    /// Mean of the training labels.
    pub mean: f64,
    /// σ of the standard deviation; `None` if leave-one-out residuals do not exist.
    pub sigma: Option<f64>,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Identities of the support images.
    pub support: Vec<String>,
}

/// A regression in a file: `head.safetensors` with `dual`, α of each support image in float64, `input.<i>.mean` and
/// `input.<i>.scale` per column in float32, and the [`Header`] as JSON in the metadata `agiqa.kernel_ridge`. The vectors of
/// the support images stay where they are, in the features.
#[derive(Debug)]
pub struct KernelRidge {
    /// Settings and names.
    pub header: Header,
    /// α, `(m,)`.
    pub dual: Tensor,
    /// One per column.
    pub standardisations: Vec<Standardisation>,
}

impl KernelRidge {
    /// The bytes of `head.safetensors`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut named = vec![("dual".to_owned(), &self.dual)];
        for (i, Standardisation { mean, scale }) in self.standardisations.iter().enumerate() {
            named.push((format!("input.{i}.mean"), mean));
            named.push((format!("input.{i}.scale"), scale));
        }
        let header = serde_json::to_string(&self.header).expect("a header is plain data");
        tensors_to_bytes(&named, HashMap::from([(HEADER.to_owned(), header)]))
    }

    /// Reads the bytes of `head.safetensors`.
    ///
    /// # Errors
    /// The bytes are damaged, or a tensor is missing or has another shape.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HeadError> {
        let (mut tensors, metadata) = tensors_from_bytes(bytes)?;
        let header = metadata.get(HEADER).ok_or_else(|| HeadError::Content(format!("no `{HEADER}` entry")))?;
        let header: Header =
            serde_json::from_str(header).map_err(|error| HeadError::Content(format!("`{HEADER}`: {error}")))?;
        let mut take = |name: &str, n: Option<usize>| {
            let tensor = tensors.remove(name).ok_or_else(|| HeadError::Content(format!("no tensor `{name}`")))?;
            let is_wanted = tensor.dim() == 1 && n.is_none_or(|n| tensor.numel() == n);
            let wrong = || HeadError::Content(format!("tensor `{name}`: found shape {:?}", tensor.size()));
            if is_wanted { Ok(tensor) } else { Err(wrong()) }
        };
        let dual = take("dual", Some(header.support.len()))?;
        let mut standardisations = Vec::new();
        for i in 0..header.columns.len() {
            let mean = take(&format!("input.{i}.mean"), None)?;
            standardisations
                .push(Standardisation { scale: take(&format!("input.{i}.scale"), Some(mean.numel()))?, mean });
        }
        Ok(Self { header, dual, standardisations })
    }

    /// The scorer over the support images' `rows`, `(m, d)` per column, in the order of the header.
    ///
    /// # Errors
    /// Fails if a width is not that of the standardisation, or if memory runs short.
    pub fn scorer(self, rows: Vec<Tensor>) -> Result<Scorer, TchError> {
        let Self { header, dual, standardisations } = self;
        for (rows, (standardisation, name)) in rows.iter().zip(standardisations.iter().zip(&header.columns)) {
            if rows.size()[1] != standardisation.mean.size()[0] {
                return Err(TchError::Kind(format!("column `{name}` has another width than in the training")));
            }
        }
        let _no_grad = tch::no_grad_guard();
        let kernel = Kernel::new(header.gamma, rows, standardisations);
        Scorer::new(kernel, dual, header.mean, header.lambda, header.sigma)
    }
}
