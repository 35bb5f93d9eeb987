//! A trained head and its file: the fusion module, the standardisation of its inputs and the scale of its labels.
//!
//! `head.safetensors` holds the parameters under their names in [`PARAMETER_NAMES`], `input.<i>.mean` and
//! `input.<i>.scale` for f_a, f_b, f_1 (i = 0, 1, 2), and `label`, the two numbers that turn the head's output into a
//! MOS (`score = output * label[0] + label[1]`). A head with a ridge start has `linear.<i>`, whose products with the
//! standardised inputs are added to the output. Metadata key `agiqa.head` holds the [`FusionConfig`] as JSON.

use std::borrow::Cow;
use std::collections::HashMap;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, View};
use tch::{Device, Kind, Tensor};

use super::fusion::{FusionConfig, FusionHead, PARAMETER_NAMES};

/// Number of images per forward pass for scoring. The last batch is padded to it. Products over batches of one shape
/// round alike, so a score does not depend on the other images of its batch. In smaller batches, a third of the products'
/// time went to laying out the weights anew.
pub const SCORE_BATCH: usize = 256;

/// Bytes that do not hold a trained head.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// Not safetensors, or cut short.
    #[error("the file is damaged or not a safetensors file; train again")]
    Damaged(#[from] safetensors::SafeTensorError),
    /// A tensor or metadata entry is missing or of another shape.
    #[error("{0}; train again with this version")]
    Content(String),
}

/// `(x - mean) * scale` per dimension of one input.
#[derive(Debug)]
pub struct Standardisation {
    /// Mean over the training part, `(d,)`.
    pub mean: Tensor,
    /// One over the standard deviation over the training part, `(d,)`; 0 for a constant dimension.
    pub scale: Tensor,
}

impl Standardisation {
    /// The standardisation that leaves inputs unchanged.
    pub fn identity(dim: i64) -> Self {
        let options = (Kind::Float, tch::Device::Cpu);
        Self { mean: Tensor::zeros([dim], options), scale: Tensor::ones([dim], options) }
    }

    /// Fits mean and population standard deviation to the columns of `xs`, `(n, d)`. `n` must be positive.
    ///
    /// A dimension whose deviation is lost in the rounding of its mean counts as constant.
    pub fn fit(xs: &Tensor) -> Self {
        let mean = xs.mean_dim(Some([0_i64].as_slice()), true, Kind::Double); // (1, d)
        let centred = xs - &mean; // (n, d), double
        let deviation = centred.square().mean_dim(Some([0_i64].as_slice()), true, Kind::Double).sqrt();
        let threshold = mean.abs() * 1e-6 + 1e-12;
        let varies = deviation.gt_tensor(&threshold);
        let scale = deviation.reciprocal().where_self(&varies, &deviation.zeros_like());
        Self { mean: mean.squeeze_dim(0).to_kind(Kind::Float), scale: scale.squeeze_dim(0).to_kind(Kind::Float) }
    }

    /// Shares the same tensors.
    pub fn share(&self) -> Self {
        Self { mean: self.mean.shallow_clone(), scale: self.scale.shallow_clone() }
    }

    /// The same on `device`.
    pub fn on(&self, device: Device) -> Self {
        Self { mean: self.mean.to_device(device), scale: self.scale.to_device(device) }
    }

    /// Applies it to `xs`, `(b, d)`.
    pub fn apply(&self, xs: &Tensor) -> Tensor {
        let mut centred = xs - &self.mean;
        centred *= &self.scale;
        centred
    }
}

/// From a network's output to MOS: `mos = output * scale + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelScale {
    /// Standard deviation of the training labels, or 1.
    pub scale: f64,
    /// Mean of the training labels, or 0.
    pub offset: f64,
}

impl LabelScale {
    /// The MOS that a network's `output` stands for.
    pub fn mos(self, output: f64) -> f64 {
        output * self.scale + self.offset
    }
}

/// A head that scores images.
#[derive(Debug)]
pub struct TrainedHead {
    /// The fusion module.
    pub head: FusionHead,
    /// Standardisation of f_a, f_b and f_1.
    pub inputs: [Standardisation; 3],
    /// Scale of the output.
    pub labels: LabelScale,
    /// Weights `(d,)` of a linear term over standardised f_a, f_b and f_1, which is added to the output.
    pub linear: Option<[Tensor; 3]>,
}

/// The linear term of a batch of standardised inputs, `(b,)`.
pub fn linear_term(weights: &[Tensor; 3], xs: &[Tensor]) -> Tensor {
    let terms = xs.iter().zip(weights).map(|(xs, weights)| xs.matmul(weights));
    terms.reduce(|sum, term| sum + term).expect("three inputs")
}

/// Scores of some images. Each list holds one entry per image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// Predicted MOS.
    pub score: Vec<f64>,
    /// Gates of semantic, coherence and quality.
    pub alpha: Vec<[f64; 3]>,
}

impl TrainedHead {
    /// Shares the same tensors with another thread.
    pub fn share(&self) -> Self {
        let parameters = self.head.parameters().map(Tensor::shallow_clone);
        let [f_a, f_b, f_1] = &self.inputs;
        Self {
            head: FusionHead::new(self.head.config, parameters),
            inputs: [f_a.share(), f_b.share(), f_1.share()],
            labels: self.labels,
            linear: self.linear.as_ref().map(|weights| weights.each_ref().map(Tensor::shallow_clone)),
        }
    }

    /// Scores the rows of `f_a`, `f_b`, `f_1` (`(n, d)` each, raw) in batches of [`SCORE_BATCH`].
    pub fn score(&self, features: &[Tensor; 3]) -> Scores {
        let _no_grad = tch::no_grad_guard();
        let n = features[0].size()[0];
        let batch = SCORE_BATCH as i64;
        let mut scores = Scores::default();
        let mut start = 0;
        while start < n {
            let n_rows = batch.min(n - start);
            let xs: Vec<Tensor> = features
                .iter()
                .zip(&self.inputs)
                .zip(self.head.config.dims())
                .map(|((features, standardisation), dim)| {
                    // An input that the head does not read has width 0.
                    let features = if dim == 0 { features.narrow(1, 0, 0) } else { features.shallow_clone() };
                    let xs = standardisation.apply(&features.narrow(0, start, n_rows));
                    if n_rows == batch { xs } else { xs.constant_pad_nd([0, 0, 0, batch - n_rows]) }
                })
                .collect();
            let output = self.head.forward(&xs[0], &xs[1], &xs[2], None);
            let n_rows = n_rows as usize;
            let mut raw = vec![0_f32; SCORE_BATCH];
            let score = match &self.linear {
                Some(weights) => &output.score + linear_term(weights, &xs),
                None => output.score.shallow_clone(),
            };
            score.copy_data(&mut raw, SCORE_BATCH);
            scores.score.extend(raw[..n_rows].iter().map(|raw| self.labels.mos(f64::from(*raw))));
            let mut alpha = vec![0_f32; 3 * SCORE_BATCH];
            output.alpha.contiguous().copy_data(&mut alpha, 3 * SCORE_BATCH);
            let triple = |row: &[f32]| [f64::from(row[0]), f64::from(row[1]), f64::from(row[2])];
            scores.alpha.extend(alpha.chunks_exact(3).take(n_rows).map(triple));
            start += batch;
        }
        scores
    }

    /// The bytes of `head.safetensors`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let labels = Tensor::from_slice(&[self.labels.scale, self.labels.offset]);
        let mut named: Vec<(String, &Tensor)> = PARAMETER_NAMES
            .iter()
            .zip(self.head.parameters())
            .map(|(name, tensor)| ((*name).to_owned(), tensor))
            .collect();
        for (i, Standardisation { mean, scale }) in self.inputs.iter().enumerate() {
            named.push((format!("input.{i}.mean"), mean));
            named.push((format!("input.{i}.scale"), scale));
        }
        named.push(("label".to_owned(), &labels));
        for (i, weights) in self.linear.iter().flatten().enumerate() {
            named.push((format!("linear.{i}"), weights));
        }
        let config = serde_json::to_string(&self.head.config).expect("a configuration is plain data");
        tensors_to_bytes(&named, HashMap::from([("agiqa.head".to_owned(), config)]))
    }

    /// Reads the bytes of `head.safetensors`.
    ///
    /// # Errors
    /// The bytes are damaged, or a tensor is missing or has another shape.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HeadError> {
        let (mut tensors, metadata) = tensors_from_bytes(bytes)?;
        let config =
            metadata.get("agiqa.head").ok_or_else(|| HeadError::Content("no `agiqa.head` entry".to_owned()))?;
        let config: FusionConfig =
            serde_json::from_str(config).map_err(|error| HeadError::Content(format!("`agiqa.head`: {error}")))?;
        let has_linear = tensors.contains_key("linear.0");
        let mut take = |name: &str, shape: &[i64]| {
            let tensor = tensors.remove(name).ok_or_else(|| HeadError::Content(format!("no tensor `{name}`")))?;
            if tensor.size() == shape {
                return Ok(tensor);
            }
            let found = tensor.size();
            Err(HeadError::Content(format!("tensor `{name}`: expected shape {shape:?}, found {found:?}")))
        };
        let mut parameters = Vec::with_capacity(PARAMETER_NAMES.len());
        for (name, shape) in PARAMETER_NAMES.iter().zip(config.shapes()) {
            parameters.push(take(name, &shape)?);
        }
        let mut inputs = Vec::with_capacity(3);
        for (i, dim) in [config.semantic_dim, config.coherence_dim, config.quality_dim].into_iter().enumerate() {
            let mean = take(&format!("input.{i}.mean"), &[dim])?;
            inputs.push(Standardisation { mean, scale: take(&format!("input.{i}.scale"), &[dim])? });
        }
        let labels = take("label", &[2])?;
        let labels = LabelScale { scale: labels.double_value(&[0]), offset: labels.double_value(&[1]) };
        let linear = if has_linear {
            let [f_a, f_b, f_1] = config.dims();
            Some([take("linear.0", &[f_a])?, take("linear.1", &[f_b])?, take("linear.2", &[f_1])?])
        } else {
            None
        };
        let parameters = parameters.try_into().expect("ten names, ten tensors");
        let inputs = inputs.try_into().expect("three inputs");
        Ok(Self { head: FusionHead::new(config, parameters), inputs, labels, linear })
    }
}

/// Serialises named f32, f64 and i64 tensors. Equal tensors give equal bytes.
pub fn tensors_to_bytes(tensors: &[(String, &Tensor)], metadata: HashMap<String, String>) -> Vec<u8> {
    let views: Vec<(&str, Serialised<'_>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let dtype = match tensor.kind() {
                Kind::Float => Dtype::F32,
                Kind::Double => Dtype::F64,
                Kind::Int64 => Dtype::I64,
                kind => panic!("tensor `{name}` is {kind:?}, but only f32, f64 and i64 can be stored"),
            };
            let shape = tensor.size().into_iter().map(|size| usize::try_from(size).expect("sizes are positive"));
            (name.as_str(), Serialised { tensor, dtype, shape: shape.collect() })
        })
        .collect();
    safetensors::serialize(views, Some(metadata)).expect("tensors in memory always serialise")
}

/// A tensor whose bytes are made when they are written, so that memory holds one serialised tensor at a time.
struct Serialised<'a> {
    tensor: &'a Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl View for Serialised<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let tensor = self.tensor.contiguous();
        let mut bytes = vec![0; self.data_len()];
        if !bytes.is_empty() {
            tensor.copy_data_u8(&mut bytes, tensor.numel());
        }
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}

/// The tensors of a file by name, and the file's metadata.
pub type NamedTensors = (HashMap<String, Tensor>, HashMap<String, String>);

/// Reads the bytes from [`tensors_to_bytes`].
///
/// # Errors
/// The bytes are damaged, or a tensor has another kind.
pub fn tensors_from_bytes(bytes: &[u8]) -> Result<NamedTensors, HeadError> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let file = SafeTensors::deserialize(bytes)?;
    let mut tensors = HashMap::new();
    for (name, view) in file.tensors() {
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F64 => Kind::Double,
            Dtype::I64 => Kind::Int64,
            other => return Err(HeadError::Content(format!("tensor `{name}` is {other:?}, expected f32, f64 or i64"))),
        };
        let shape: Vec<i64> = view.shape().iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect();
        // A part that a head lacks is stored as a tensor without values.
        let is_empty = view.data().is_empty();
        let options = (kind, tch::Device::Cpu);
        let tensor =
            if is_empty { Tensor::zeros(&shape, options) } else { Tensor::from_data_size(view.data(), &shape, kind) };
        tensors.insert(name, tensor);
    }
    Ok((tensors, metadata.metadata().clone().unwrap_or_default()))
}
