//! `agiqa ingest`: reads a dataset's MOS table and images.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::exit::Exit;
use super::set::SetArgs;
use super::{Context, path_argument};
use crate::ingest::{Adapter, ColumnNames, IngestSettings, IngestStage, NameRule, Rerun};
use agiqa_images::DecodeLimits;
use agiqa_intake::Reading;
use agiqa_store::tables::PartitionName;

/// Arguments of `agiqa ingest`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Origin of the table. It decides column mapping, generator rule and MOS scale if they are not given.
    #[arg(long, value_parser = adapters())]
    adapter: Adapter,
    /// MOS table: delimited text, JSON, JSON lines, Parquet, xlsx or MATLAB v5, also compressed; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    table: PathBuf,
    /// Folder that the image names in the table are relative to.
    #[arg(long, value_name = "DIR", required_unless_present = "no_images")]
    images: Option<PathBuf>,
    /// Do not open the images. Their rows have an id by name, and no features.
    #[arg(long)]
    no_images: bool,
    /// Store to write to: a folder, or `s3://…`.
    #[arg(long, value_name = "URL", value_parser = path_argument())]
    store: String,
    /// Name of the dataset in the store. Default: the adapter's name (required with `generic`).
    #[arg(long, value_name = "NAME", required_if_eq("adapter", "generic"))]
    dataset: Option<PartitionName>,
    #[command(flatten)]
    reading: Reading,
    /// Column of the table, by name or by number from 1, for one of `name`, `mos`, `mos_std`, `mos_align`, `prompt`, `generator`. Repeatable.
    #[arg(long = "column", value_name = "KEY=COLUMN", value_parser = key_value)]
    columns: Vec<(String, String)>,
    /// Rule that derives the generator from an image's name: `before-first=TEXT`, `before-last=TEXT` or
    /// `parent-folder`.
    #[arg(long, value_name = "RULE")]
    generator: Option<NameRule>,
    /// Further column that such a rule derives from an image's name. Repeatable.
    #[arg(long = "derive", value_name = "COLUMN=RULE", value_parser = key_value)]
    derived: Vec<(String, String)>,
    /// Lowest and highest possible MOS, e.g. `0..5`. A row outside this scale is rejected.
    #[arg(long, value_name = "MIN..MAX", value_parser = scale, allow_hyphen_values = true)]
    mos_scale: Option<(f64, f64)>,
    /// Lower scores are better, as in a DMOS. They are stored reversed on their scale.
    #[arg(long)]
    lower_is_better: bool,
    /// Greatest number of pixels of an image.
    #[arg(long, value_name = "N", default_value_t = DecodeLimits::default().max_pixels)]
    max_pixels: u64,
    /// Ingest even if nothing has changed.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    set: SetArgs,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let dataset = match args.dataset {
        Some(dataset) => dataset,
        None => PartitionName::new(args.adapter.name())?,
    };
    let reading = args.reading;
    let mut columns = ColumnNames::default();
    for (key, column) in args.columns {
        let slot = columns.slot(&key).with_context(|| unknown_key(&key))?;
        anyhow::ensure!(slot.is_none(), "duplicate `--column {key}=…`");
        *slot = Some(column);
    }
    let mut derive = BTreeMap::new();
    for (column, rule) in args.derived {
        let rule = rule.parse().map_err(|problem| anyhow::anyhow!("`--derive {column}={rule}`: {problem}"))?;
        derive.insert(column, rule);
    }
    let settings = IngestSettings {
        adapter: args.adapter,
        dataset,
        table: args.table,
        images: args.images.unwrap_or_default(),
        no_images: args.no_images,
        format: reading.format,
        sheet: reading.sheet,
        delimiter: reading.delimiter,
        decimal_comma: reading.decimal_comma,
        no_header: reading.no_header,
        encoding: reading.encoding,
        columns,
        generator: args.generator,
        derive,
        mos_scale: args.mos_scale.map(|(low, high)| [low, high]),
        lower_is_better: args.lower_is_better,
        max_pixels: args.max_pixels,
    };
    let settings = args.set.over(settings)?;
    let rerun = if args.force { Rerun::Always } else { Rerun::IfChanged };
    super::run_stage("ingest", &args.store, &IngestStage::new(settings, rerun), context)
}

/// The names of the adapters, with what each reads.
fn adapters() -> impl TypedValueParser<Value = Adapter> {
    let value = |adapter: Adapter| PossibleValue::new(adapter.name()).help(adapter.about());
    PossibleValuesParser::new(Adapter::all().map(value)).try_map(|name| name.parse::<Adapter>())
}

fn unknown_key(key: &str) -> String {
    let suggestion = agiqa_suggest::question(key, ColumnNames::KEYS);
    format!("`--column {key}=…`: expected one of `{}`{suggestion}", ColumnNames::KEYS.join("`, `"))
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

fn scale(text: &str) -> Result<(f64, f64), String> {
    let numbers = text.split_once("..").and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    numbers.ok_or_else(|| "expected two numbers with `..` between them, e.g. `0..5`".to_owned())
}
