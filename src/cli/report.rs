//! `agiqa report`: a page about a night's scores, or about a group of runs.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::exit::Exit;
use super::judging::{DatasetArgs, Judged, ScorerArgs};
use super::{Context, check, output, path_argument};
use crate::corpus::Night;
use agiqa_judge::check::CheckSettings;
use agiqa_judge::scorer::Scorer;
use agiqa_report::night::NightSettings;
use agiqa_report::runs::RunsSettings;
use agiqa_report::{ReportStage, Subject};
use agiqa_store::store::run_log::StageRecord;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::Runs;

/// Arguments of `agiqa report`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Store that holds the tables. The page is written there, below `reports/`.
    #[arg(long, value_name = "URL", value_parser = path_argument())]
    store: String,
    #[command(flatten)]
    scorer: ScorerArgs,
    /// Without a dataset or a night, the page is about the training of the run or group.
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Earlier datasets, or labels of the corpus' nights, oldest first, separated by commas. Scores are compared with the last.
    /// Default: the corpus' last 30 nights before.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    against: Vec<PartitionName>,
    /// File with the `[[check]]` tables of the night. Default: see docs/operating.md.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Method whose errors are compared with those of the runs. Default: the method with the greatest SRCC, or else
    /// generator-mean.
    #[arg(long, value_name = "METHOD", conflicts_with_all = ["dataset", "corpus"])]
    baseline: Option<String>,
    /// Words whose prompts form subsets, separated by commas. Default: the commonest words.
    #[arg(long, value_name = "WORDS", value_delimiter = ',', conflicts_with_all = ["dataset", "corpus"])]
    words: Vec<String>,
    /// Number of the best and of the worst images of a night that are shown.
    #[arg(long, value_name = "N", default_value_t = N_SHOWN, value_parser = clap::value_parser!(u16).range(..=25))]
    images: u16,
    /// Leave out thumbnails. The page then holds no picture of an image.
    #[arg(long)]
    no_thumbnails: bool,
    /// Write the page to this file, and its numbers to a `.json` file of the same name, instead of into the store.
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
}

/// Default number of the best and of the worst images.
const N_SHOWN: u16 = 12;

/// The page of a night by `scorer`, as `[report]` of a pipeline makes it.
pub(super) fn night_stage(
    store: &Store,
    night: &Night,
    scorer: &Scorer,
    checks: Vec<CheckSettings>,
    has_thumbnails: bool,
) -> anyhow::Result<ReportStage> {
    let judged = Judged::of_night(store, night, scorer)?;
    let settings = settings(store, judged, scorer.clone(), checks, N_SHOWN.into(), has_thumbnails)?;
    Ok(ReportStage::new(Subject::Night(settings), Runs::default()))
}

fn settings(
    store: &Store,
    judged: Judged,
    scorer: Scorer,
    checks: Vec<CheckSettings>,
    n_shown: usize,
    has_thumbnails: bool,
) -> anyhow::Result<NightSettings> {
    let Judged { dataset, night, against, previous } = judged;
    let scale = match night {
        Some(night) => agiqa_judge::night::scale(store, &night)?,
        None => None,
    };
    Ok(NightSettings { dataset, scorer, against, previous, scale, checks, n_shown, has_thumbnails })
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let (scorer, has_thumbnails) = (args.scorer.scorer()?, !args.no_thumbnails);
    anyhow::ensure!(
        args.dataset.is_given() || (args.against.is_empty() && args.config.is_none()),
        "`--against` and `--config` are about a night: give `--dataset`, or `--corpus` and `--night`"
    );
    let store = Store::open(&args.store, OpenMode::Existing)?;
    let subject = if args.dataset.is_given() {
        let judged = args.dataset.judged(&store, &scorer, args.against)?;
        let checks = check::checks(args.config.as_deref(), context)?;
        Subject::Night(settings(&store, judged, scorer, checks, args.images.into(), has_thumbnails)?)
    } else {
        Subject::Runs(RunsSettings { scorer, baseline: args.baseline, words: args.words, has_thumbnails })
    };
    let stage = ReportStage::new(subject, Runs::default());
    let Some(path) = args.out else {
        let exit = super::run_stage("report", &args.store, &stage, context)?;
        say(Path::new(store.url()).join(stage.subject.html_path()), context);
        return Ok(exit);
    };
    anyhow::ensure!(
        path.extension().is_some_and(|extension| extension == "html"),
        "`--out {}`: the page is HTML: name a file that ends in `.html`",
        path.display()
    );
    super::with_run_log("report", &store.clone(), context, |log| {
        let started = std::time::Instant::now();
        let report = stage.subject.report(&store, &stage.records)?;
        for (path, text) in [(&path.with_extension("json"), &report.json), (&path, &report.html)] {
            output::replace(path, |out| out.write_all(text.as_bytes()))
                .with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        let stage = agiqa_store::stage::Stage::name(&stage);
        let (outcome, reason) = ("ran".to_owned(), format!("a page about {} images", report.n_images));
        log.stage(StageRecord { stage, outcome, reason, elapsed_secs: started.elapsed().as_secs_f64(), rows: None });
        say(path, context);
        Ok(Exit::Done)
    })
}

/// Says where the page is.
pub(super) fn say(path: PathBuf, context: &Context) {
    context.done.add_output(&path);
    context.console.info(format!("report: {}", path.display()));
}
