//! From the bytes of a file to its rows in `inventory` and `images`.

use agiqa_images::ImageError;
use agiqa_provenance::{PromptSource, Provenance};
use agiqa_sources::{Entry, Given, Place, Reader};
use agiqa_store::identity::ImageId;
use agiqa_store::tables::images::{ExtraColumn, ExtraValues, ImageRow, Images};
use agiqa_store::tables::inventory::{ImageFile, InventoryRow, State};
use agiqa_store::tables::{MAKING_COLUMNS, Making};

/// The number of making's columns that every `images` table has: prompt and generator.
const N_FIXED: usize = 2;

/// Name of the column that says whether an earlier night of the corpus had the content.
pub(super) const CACHED: &str = "cached";

/// Reads the file of `entry`. Also returns warnings about files that describe it.
///
/// # Errors
/// The file cannot be read. Any other problem of its content is a [`State`].
pub(super) fn read(reader: &Reader, entry: &Entry, night: &str) -> Result<(InventoryRow, Vec<String>), ImageError> {
    let mut warnings = Vec::new();
    let state = match reader.read_if_image(&Place::parse(&entry.uri), &entry.name) {
        Ok(None) => State::LeftOut,
        Ok(Some(bytes)) => {
            let image_id = ImageId::of_bytes(&bytes);
            match agiqa_images::probe(&bytes) {
                Ok(info) => {
                    let mut making = making_of(agiqa_provenance::read(&bytes, &entry.name));
                    for sidecar in &entry.sidecars {
                        match reader.read_given(sidecar) {
                            Ok(given) => making = with(making, given, "sidecar"),
                            Err(problem) => warnings.push(format!("{problem}: it is left out")),
                        }
                    }
                    State::Image(ImageFile {
                        image_id,
                        n_bytes: bytes.len() as u64,
                        width_px: info.width_px,
                        height_px: info.height_px,
                        format: info.format.to_owned(),
                        making,
                    })
                }
                Err(error) => rejected(Some(image_id), &entry.uri, &error),
            }
        }
        Err(error @ ImageError::Empty) => rejected(None, &entry.uri, &error),
        Err(error) => return Err(error),
    };
    let row = InventoryRow {
        uri: entry.uri.clone(),
        version: entry.version.clone(),
        first_night: night.to_owned(),
        name: entry.name.clone(),
        container: None,
        state,
    };
    Ok((row, warnings))
}

fn rejected(image_id: Option<ImageId>, uri: &str, error: &ImageError) -> State {
    State::Rejected { image_id, kind: error.kind().to_owned(), message: format!("`{uri}`: {error}") }
}

fn making_of(provenance: Provenance) -> Making {
    let source = match provenance.prompt_source {
        PromptSource::Embedded => "embedded",
        PromptSource::Ambiguous => "ambiguous",
        PromptSource::None => "none",
    };
    Making {
        prompt: provenance.prompt,
        generator: None,
        negative_prompt: provenance.negative_prompt,
        seed: provenance.seed,
        model: provenance.model,
        sampler: provenance.sampler,
        tool: provenance.tool,
        group_id: provenance.group_id,
        prompt_source: Some(source.to_owned()),
        declared_synthetic: provenance.declared_synthetic.or(provenance.has_c2pa.then(|| "c2pa".to_owned())),
    }
}

/// `making`, with what `given` says instead. `source` is where that comes from.
pub(super) fn with(making: Making, given: Given, source: &str) -> Making {
    let prompt_source = if given.prompt.is_some() { Some(source.to_owned()) } else { making.prompt_source };
    Making {
        prompt: given.prompt.or(making.prompt),
        generator: given.generator.or(making.generator),
        negative_prompt: given.negative_prompt.or(making.negative_prompt),
        seed: given.seed.or(making.seed),
        model: given.model.or(making.model),
        sampler: given.sampler.or(making.sampler),
        group_id: given.group_id.or(making.group_id),
        prompt_source,
        ..making
    }
}

/// One image of a night.
pub(super) struct NightImage {
    pub(super) name: String,
    pub(super) uri: String,
    pub(super) file: ImageFile,
    /// Whether an earlier night has had the content.
    pub(super) is_cached: bool,
}

/// The table of `images`.
pub(super) fn table(images: Vec<NightImage>) -> Images {
    let text = |column: usize| {
        let values = images.iter().map(|image| image.file.making.values()[column].map(str::to_owned)).collect();
        ExtraColumn { name: MAKING_COLUMNS[column].name.to_owned(), values: ExtraValues::Text(values) }
    };
    let mut extra: Vec<ExtraColumn> = (N_FIXED..MAKING_COLUMNS.len()).map(text).collect();
    let cached = images.iter().map(|image| Some(f64::from(u8::from(image.is_cached)))).collect();
    extra.push(ExtraColumn { name: CACHED.to_owned(), values: ExtraValues::Real(cached) });
    let row = |NightImage { name, uri, file, .. }: NightImage| ImageRow {
        image_id: file.image_id,
        name,
        path: uri,
        n_bytes: file.n_bytes,
        width_px: file.width_px,
        height_px: file.height_px,
        format: file.format,
        generator: file.making.generator.or(file.making.model),
        prompt: file.making.prompt,
        mos: None,
        mos_std: None,
        mos_align: None,
    };
    Images { rows: images.into_iter().map(row).collect(), extra }
}
