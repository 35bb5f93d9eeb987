//! Several extractors as one network: each sees every image, so that heads behind them can read the features of all.

use std::sync::Arc;

use tch::Device;

use crate::engine::{
    Batch, BatchSize, Frame, GuestError, Input, InputSize, Launched, Loaded, Network, OutputRows, PerImage,
    Preprocessor, Unusable, Values,
};
use agiqa_images::RgbImage8;
use agiqa_store::tables::features::FeatureSet;

/// Images at once where no network says how many.
const BATCH_SIZE: usize = 32;

/// Extractors side by side. Their rows come in the order of the extractors.
pub(super) struct Together {
    parts: Vec<Part>,
    frame: Frame,
}

/// One extractor.
enum Part {
    Network(Box<dyn Network>),
    /// The decoding threads compute it, so that its features are inputs here. The widths of its columns, per set.
    PerImage(Vec<Vec<usize>>),
}

impl Together {
    /// The extractors `loaded`, each with the sets that it fills.
    pub(super) fn new(loaded: Vec<(Loaded, Vec<FeatureSet>)>) -> Self {
        let (mut parts, mut frontends, mut notes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut asked, mut preferred, mut device) = (None, None, Device::Cpu);
        for (loaded, sets) in loaded {
            match loaded {
                Loaded::Network(network) => {
                    let frame = network.frame();
                    let at_most = |own: usize, other: Option<usize>| Some(other.map_or(own, |other| other.min(own)));
                    match frame.batch_size {
                        BatchSize::Asked(n) => asked = at_most(n, asked),
                        BatchSize::Preferred(n) => preferred = at_most(n, preferred),
                    }
                    if frame.device != Device::Cpu {
                        device = frame.device;
                    }
                    notes.extend(frame.notes.iter().cloned());
                    frontends.push(Frontend::Prepare(Arc::clone(&frame.preprocessor)));
                    parts.push(Part::Network(network));
                }
                Loaded::PerImage(per_image) => {
                    let dims = |set: &FeatureSet| set.columns.iter().map(|column| column.dim).collect();
                    parts.push(Part::PerImage(sets.iter().map(dims).collect()));
                    frontends.push(Frontend::Compute(Arc::from(per_image)));
                }
            }
        }
        let preferred = BatchSize::Preferred(preferred.unwrap_or(BATCH_SIZE));
        let batch_size = asked.map_or(preferred, BatchSize::Asked);
        Self { parts, frame: Frame { preprocessor: Arc::new(Preprocessors(frontends)), batch_size, device, notes } }
    }
}

/// The inputs of all parts.
struct Preprocessors(Vec<Frontend>);

enum Frontend {
    Prepare(Arc<dyn Preprocessor>),
    Compute(Arc<dyn PerImage>),
}

impl Frontend {
    fn input(&self, image: &RgbImage8) -> Result<Input, Unusable> {
        let per_image = match self {
            Self::Prepare(preprocessor) => return preprocessor.prepare(image),
            Self::Compute(per_image) => per_image,
        };
        let rows: Vec<OutputRows> = per_image.compute(image, &[0]).into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        let columns = rows.iter().flat_map(|rows| match rows {
            OutputRows::Vectors { columns, .. } => columns.as_slice(),
            OutputRows::Scores(_) => &[],
        });
        let values: Vec<f32> = columns.flatten().copied().collect();
        Ok(Input { shape: vec![values.len() as i64], values: Values::F32(values) })
    }
}

impl Preprocessor for Preprocessors {
    fn size(&self) -> InputSize {
        let is_varying = |part: &Frontend| match part {
            Frontend::Prepare(preprocessor) => preprocessor.size() == InputSize::Varying,
            Frontend::Compute(_) => false,
        };
        if self.0.iter().any(is_varying) { InputSize::Varying } else { InputSize::Fixed }
    }

    fn prepare(&self, image: &RgbImage8) -> Result<Input, Unusable> {
        let inputs: Vec<Input> = self.0.iter().map(|part| part.input(image)).collect::<Result<_, _>>()?;
        Ok(Input { shape: vec![inputs.len() as i64], values: Values::Several(inputs) })
    }
}

impl Network for Together {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn launch(&mut self, batch: &Batch<'_>) -> Result<Launched, GuestError> {
        let mut launched = Vec::new();
        for (at, part) in self.parts.iter_mut().enumerate() {
            let inputs: Vec<Input> = batch.inputs.iter().map(|input| input.values.parts()[at].clone()).collect();
            launched.push(match part {
                Part::Network(network) => network.launch(&Batch { inputs: &inputs, size: batch.size })?,
                Part::PerImage(dims) => {
                    let rows = rows(&inputs, dims);
                    Box::new(move || Ok(rows)) as Launched
                }
            });
        }
        Ok(Box::new(move || Ok(launched.into_iter().map(|rows| rows()).collect::<Result<Vec<_>, _>>()?.concat())))
    }
}

/// The rows of images whose `inputs` are the values of columns of the widths `dims`, per set.
fn rows(inputs: &[Input], dims: &[Vec<usize>]) -> Vec<OutputRows> {
    let mut start = 0;
    let mut column = |dim: &usize| {
        let range = start..start + dim;
        start = range.end;
        inputs.iter().flat_map(|input| input.values.as_f32()[range.clone()].iter().copied()).collect()
    };
    let of_set =
        |dims: &Vec<usize>| OutputRows::Vectors { columns: dims.iter().map(&mut column).collect(), n_tokens: 0 };
    dims.iter().map(of_set).collect()
}
