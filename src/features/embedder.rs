//! The part that extractors with a network have in common: their settings, their description, and the network as the engine
//! runs it.

use std::sync::Arc;

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::extractor::{catching, described_set};
use super::{CommonSettings, DeviceChoice, Dtype, ExtractError, ExtractorName, FeatureSets};
use crate::engine::{
    Batch, Frame, GuestError, Input, Launched, Loaded, Network, OutputRows, Preprocessor, Unusable, Values,
};
use agiqa_images::{DECODER_VERSION, RgbImage8};
use agiqa_nets::device::Fetch;
use agiqa_store::tables::features::{FeatureKind, FeatureSet, VectorColumn};

/// Number types of a network, as written to `extractor.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Precision {
    /// Type of the weights, from the settings.
    pub(crate) dtype: Dtype,
    /// Type of the products, if it differs from the weights'.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) products: Option<Dtype>,
}

impl Precision {
    /// The precision for weights of `dtype` on `device`.
    pub(crate) fn of(dtype: Dtype, device: DeviceChoice) -> Self {
        Self { dtype, products: dtype.other_products(device) }
    }
}

/// The checked settings that every network has.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    extractor: ExtractorName,
    code_version: u32,
    /// Number types, which decide the numbers.
    pub(super) precision: Precision,
    /// What the device chose; `None` if the settings name a type.
    note: Option<String>,
    common: CommonSettings,
    weights_blake3: String,
}

/// All settings that decide the numbers, as written to `extractor.json`.
#[derive(Serialize)]
struct Description<'a, T> {
    extractor: ExtractorName,
    code_version: u32,
    weights_blake3: &'a str,
    decoder_version: u32,
    resize: &'a str,
    #[serde(flatten)]
    own: T,
}

impl Setup {
    /// For the extractor in its `code_version`, in the type `asked` or the device's default, with weights of this hash.
    pub(super) fn new(
        extractor: ExtractorName,
        code_version: u32,
        asked: Option<Dtype>,
        common: &CommonSettings,
        weights_blake3: String,
    ) -> Self {
        // Looking for a GPU takes a while, and the result matters only if no type is named.
        let dtype = asked.unwrap_or_else(|| Dtype::default_of(extractor, common.device.wanted()));
        let precision = Precision::of(dtype, common.device);
        let note = asked.is_none().then(|| note(extractor, dtype));
        Self { extractor, code_version, precision, note, common: common.clone(), weights_blake3 }
    }

    /// The set of `kind`. `own` holds the extractor's own settings that decide the numbers.
    pub(super) fn set(
        &self,
        kind: FeatureKind,
        resize: &str,
        own: impl Serialize,
        columns: Vec<VectorColumn>,
    ) -> FeatureSet {
        let Self { extractor, code_version, ref weights_blake3, .. } = *self;
        let description =
            Description { extractor, code_version, weights_blake3, decoder_version: DECODER_VERSION, resize, own };
        described_set(extractor, kind, &description, columns)
    }

    /// The device and the number type of the weights.
    ///
    /// # Errors
    /// The machine lacks the device, or the device the type.
    pub(super) fn place(&self) -> Result<(Device, Kind), ExtractError> {
        let dtype = self.precision.dtype;
        Ok((self.common.device_for(dtype)?, dtype.kind()))
    }

    /// The surroundings of the network on `device`. `batch_sizes` are the defaults on a CPU and on a GPU. `resized` makes the
    /// levels of an input.
    pub(super) fn frame(
        &self,
        device: Device,
        batch_sizes: [usize; 2],
        note: Option<String>,
        resized: impl Fn(&RgbImage8) -> Vec<u8> + Send + Sync + 'static,
    ) -> Frame {
        Frame {
            preprocessor: Arc::new(Levels(resized)),
            batch_size: self.common.batch_size_on(device, batch_sizes),
            device,
            notes: note.into_iter().chain(self.note.clone()).collect(),
        }
    }

    /// The network for the engine. Its `columns` are those of all `sets` for the levels of a batch, side by side, with the
    /// number of real images.
    ///
    /// # Shapes
    /// - levels: `(b, n)`, u8
    /// - columns: `(b or n_images, Σ d)`
    pub(super) fn network(
        &self,
        sets: &FeatureSets,
        frame: Frame,
        n_tokens: u32,
        columns: impl FnMut(&Tensor, usize) -> Tensor + 'static,
    ) -> Loaded {
        let widths = sets.iter().map(|set| set.columns.iter().map(|column| column.dim).collect()).collect();
        Loaded::Network(Box::new(Embedder { extractor: self.extractor, frame, widths, n_tokens, columns }))
    }

    /// A note of the tensors `names` of a checkpoint, which the network does not read.
    pub(super) fn unread<'a>(&self, names: impl Iterator<Item = &'a str>) -> Option<String> {
        let names: Vec<&str> = names.collect();
        let (n, extractor) = (names.len(), self.extractor);
        (n > 0).then(|| format!("{n} tensors of the checkpoint are not read by `{extractor}`: {}", names.join(", ")))
    }

    /// The setup with other products.
    #[cfg(test)]
    pub(super) fn with_products(extractor: ExtractorName, products: Option<Dtype>) -> Self {
        let common = CommonSettings { device: DeviceChoice::Cpu, ..CommonSettings::default() };
        let precision = Precision { dtype: Dtype::Bf16, products };
        Self { precision, ..Self::new(extractor, 1, None, &common, "of some weights".to_owned()) }
    }
}

/// What a user who named no type should know of `dtype`, which the device chose.
fn note(extractor: ExtractorName, dtype: Dtype) -> String {
    match dtype {
        Dtype::F32 => format!("`{extractor}` computes in f32, the default on a CPU"),
        Dtype::F16 | Dtype::Bf16 => format!(
            "`{extractor}` computes in {dtype}, the default on a GPU: as fast as the device multiplies, with residuals, \
             norms, softmax and sums in f32; `dtype = \"f32\"` makes another feature set, slower and exact"
        ),
    }
}

/// The error of an extractor whose network cannot be built.
pub(super) fn load_error<E>(extractor: ExtractorName) -> impl Fn(E) -> ExtractError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| ExtractError::Load { extractor, source: Box::new(source) }
}

/// Gives a network the levels of resized pictures. It normalises them on its device.
struct Levels<F>(F);

impl<F: Fn(&RgbImage8) -> Vec<u8> + Send + Sync> Preprocessor for Levels<F> {
    fn prepare(&self, image: &RgbImage8) -> Result<Input, Unusable> {
        let levels = (self.0)(image);
        let shape = vec![levels.len() as i64];
        Ok(Input { values: Values::U8(levels), shape })
    }
}

/// A loaded network.
struct Embedder<F> {
    extractor: ExtractorName,
    frame: Frame,
    /// Number of values of each column of each set.
    widths: Vec<Vec<usize>>,
    /// Number of tokens of an image.
    n_tokens: u32,
    columns: F,
}

impl<F: FnMut(&Tensor, usize) -> Tensor> Network for Embedder<F> {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn launch(&mut self, batch: &Batch<'_>) -> Result<Launched, GuestError> {
        let (extractor, n_images, n_tokens) = (self.extractor, batch.n_images(), self.n_tokens);
        let failed = move |source| ExtractError::Forward { extractor, n_images, source };
        // One copy for all columns. Most of tch panics if memory is short.
        let fetch = catching(|| {
            let _no_grad = tch::no_grad_guard();
            let columns = (self.columns)(&batch.on(self.frame.device)?, n_images);
            Fetch::of(&columns.narrow(0, 0, n_images as i64))
        });
        let (fetch, widths) = (fetch.flatten().map_err(failed)?, self.widths.clone());
        Ok(Box::new(move || {
            let mut columns = cut(&fetch.wait().map_err(failed)?, &widths.concat()).into_iter();
            let mut rows = |n| OutputRows::Vectors { columns: columns.by_ref().take(n).collect(), n_tokens };
            Ok(widths.iter().map(|widths| rows(widths.len())).collect())
        }))
    }
}

/// Columns of a row-major matrix whose rows hold them side by side.
fn cut(values: &[f32], widths: &[usize]) -> Vec<Vec<f32>> {
    let n_row = widths.iter().sum::<usize>().max(1);
    let mut start = 0;
    let column = |width: &usize| {
        let of_row = |row: &[f32]| row[start..start + width].to_vec();
        let column = values.chunks_exact(n_row).flat_map(of_row).collect();
        start += width;
        column
    };
    widths.iter().map(column).collect()
}

/// The results of `run` for `n_images` images on a CPU, in order. Each thread takes one of `workers`, at least one, and
/// computes one image at a time. This keeps an image's values in the cache, which saves a tenth of a transformer's time
/// at eight images, and needs neither barriers within an image nor padding.
pub(super) fn side_by_side<W: Send, T: Send>(
    workers: &mut [W],
    n_images: usize,
    run: impl Fn(&W, usize) -> T + Sync,
) -> Vec<T> {
    let (n_torch_threads, n_workers) = (tch::get_num_threads(), workers.len());
    let mut results: Vec<(usize, T)> = std::thread::scope(|scope| {
        let started: Vec<_> = workers
            .iter_mut()
            .enumerate()
            .map(|(first, worker)| {
                let run = &run;
                scope.spawn(move || {
                    let _no_grad = tch::no_grad_guard();
                    tch::set_num_threads(1);
                    (first..n_images).step_by(n_workers).map(|i| (i, run(worker, i))).collect::<Vec<_>>()
                })
            })
            .collect();
        let ended: Vec<_> = started.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        tch::set_num_threads(n_torch_threads);
        // A worker's panic continues here, with torch's message.
        ended.into_iter().flat_map(|results| results.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_described_only_if_their_type_differs_from_the_weights() {
        let described =
            |products| serde_json::to_value(Precision { dtype: Dtype::Bf16, products }).expect("plain data");
        assert_eq!(described(None), serde_json::json!({ "dtype": "bf16" }));
        assert_eq!(described(Some(Dtype::F32)), serde_json::json!({ "dtype": "bf16", "products": "f32" }));
    }

    #[test]
    fn a_matrix_is_cut_into_its_columns() {
        let values: Vec<f32> = (0..10).map(|value| value as f32).collect();
        let columns = cut(&values, &[1, 3, 1]);
        assert_eq!(columns, [vec![0.0, 5.0], vec![1.0, 2.0, 3.0, 6.0, 7.0, 8.0], vec![4.0, 9.0]]);
    }

    #[test]
    fn a_user_is_told_what_the_device_chose_unless_the_settings_name_a_type() {
        let setup = |asked, device| {
            let common = CommonSettings { device, ..CommonSettings::default() };
            Setup::new(ExtractorName::Maniqa, 1, asked, &common, String::new())
        };
        let note = |asked| setup(asked, DeviceChoice::Cpu).note;
        assert_eq!(note(None).as_deref(), Some("`maniqa` computes in f32, the default on a CPU"));
        assert_eq!(note(Some(Dtype::F32)), None);
        let on_gpu = setup(None, DeviceChoice::Cuda(0));
        assert_eq!(on_gpu.precision.dtype, Dtype::F16);
        assert!(on_gpu.note.expect("a note").contains("f16, the default on a GPU"));
    }

    #[test]
    fn the_wanted_device_decides_the_type_of_products() {
        for device in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(0)] {
            assert_eq!(Precision::of(Dtype::F32, device), Precision { dtype: Dtype::F32, products: None });
        }
        assert_eq!(Precision::of(Dtype::Bf16, DeviceChoice::Cuda(7)).products, None);
        let on_cpu = Dtype::Bf16.products_on(Device::Cpu);
        assert_eq!(Precision::of(Dtype::Bf16, DeviceChoice::Cpu).products.unwrap_or(Dtype::Bf16), on_cpu);
    }
}
