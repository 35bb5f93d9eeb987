//! `agiqa check`: whether a dataset's images and scores are as good as they should be.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::Serialize;

use super::exit::Exit;
use super::judging::{DatasetArgs, Judged, ScorerArgs};
use super::weights::print_line;
use super::{Context, path_argument};
use agiqa_judge::check::{self, CheckSettings, Checked, Checking, Compared, Of, Rejected, Severity};
use agiqa_judge::night;
use agiqa_judge::scorer::{ScoredImages, Scorer, Scores};
use agiqa_store::layout;
use agiqa_store::store::run_log::{RunLog, StageRecord};
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::Runs;

/// Arguments of `agiqa check`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Store that holds images and scores.
    #[arg(long, value_name = "URL", value_parser = path_argument())]
    store: String,
    #[command(flatten)]
    dataset: DatasetArgs,
    #[command(flatten)]
    scorer: ScorerArgs,
    /// Dataset to compare with; of a corpus, label of a night. Default: the latest night before, if the corpus has one that
    /// was scored. Without anything to compare with, comparisons pass and say so.
    #[arg(long, value_name = "NAME")]
    against: Option<PartitionName>,
    /// File with `[[check]]` tables. Other tables in it are left to other commands. Default: see docs/operating.md.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Serialize)]
struct Event<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    checked: &'a Checked,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let checks = checks(args.config.as_deref(), context)?;
    let scorer = args.scorer.scorer()?;
    let store = Store::open(&args.store, OpenMode::Existing)?;
    let judged = args.dataset.judged(&store, &scorer, args.against.into_iter().collect())?;
    super::with_run_log("check", &store.clone(), context, |log| {
        checked(&store, &judged, &scorer, &checks, context, log)
    })
}

/// `--max-rejects` is the limit of the checks of rejects.
pub(super) fn allow_rejects(checks: &mut [CheckSettings], context: &Context) {
    if let Some(limit) = context.max_rejects {
        let of_rejects = checks.iter_mut().filter(|check| check.of == Of::RejectShare);
        of_rejects.for_each(|check| check.max = Some(limit.share()));
    }
}

/// Runs `checks` over `judged`, prints them and records them in `log`, and for a corpus' night in the store.
pub(super) fn checked(
    store: &Store,
    judged: &Judged,
    scorer: &Scorer,
    checks: &[CheckSettings],
    context: &Context,
    log: &mut RunLog,
) -> anyhow::Result<Exit> {
    let started = std::time::Instant::now();
    let (dataset, records) = (&judged.dataset, Runs::default());
    let scores = Arc::new(Scores::read(store, scorer, &records)?);
    let (now, counts) = check::read(store, dataset, &scores, &Rejected::read(store)?)?;
    let before = |name: &PartitionName| ScoredImages::of(store, name, None, scores.clone());
    let before = judged.previous.as_ref().map(before).transpose()?;
    let test = check::test_part(store, &scores, scorer, &records, checks)?;
    let mut scale = None;
    if let Some(night) = &judged.night {
        // The shares of a night may have ended at one time, and rejects may have come since.
        if night.fingerprint(store)?.is_some() {
            night::summarise(store, night, scores.scale.clone())?;
        }
        scale = night::scale(store, night)?;
    }
    let what = judged.previous.as_ref().map(|name| format!("`{name}`")).unwrap_or_default();
    let previous = before.as_ref().map(|scored| Compared { what: &what, scored });
    let found = Checking { now: &now, counts, previous, test: test.as_ref(), scale }.run(checks);
    if let Some(night) = &judged.night {
        check::write(store, night, &found)?;
    }
    print(&found, context);
    let failed = |severity: Severity| found.iter().filter(|check| !check.passed && check.severity == severity).count();
    let (n_failed, n_warned) = (failed(Severity::Fail), failed(Severity::Warn));
    let n_passed = found.len() - n_failed - n_warned;
    let reason = format!("{n_passed} checks passed, {n_failed} failed, {n_warned} warned");
    context.console.info(format!("check {dataset}: {reason}"));
    let (stage, outcome) = (format!("check {dataset}"), "ran".to_owned());
    log.stage(StageRecord { stage, outcome, reason, elapsed_secs: started.elapsed().as_secs_f64(), rows: None });
    context.done.add_checks([("passed", n_passed), ("failed", n_failed), ("warned", n_warned)]);
    Ok(if n_failed > 0 { Exit::Rejected } else { Exit::Done })
}

/// The checks in the file `config`, or those that run where none are named, with the limit of `--max-rejects`.
pub(super) fn checks(config: Option<&Path>, context: &Context) -> anyhow::Result<Vec<CheckSettings>> {
    let mut checks = config.map_or_else(|| Ok(CheckSettings::defaults()), read)?;
    allow_rejects(&mut checks, context);
    Ok(checks)
}

/// The checks in the file at `path`.
fn read(path: &Path) -> anyhow::Result<Vec<CheckSettings>> {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(default)]
        check: Vec<toml::Spanned<CheckSettings>>,
    }
    let name = || format!("cannot read the checks in `{}`", path.display());
    let text = std::fs::read_to_string(path).with_context(name)?;
    let File { check } = toml::from_str(&text).with_context(name)?;
    anyhow::ensure!(!check.is_empty(), "`{}` has no table `[[check]]`", path.display());
    for check in &check {
        let line = 1 + text[..check.span().start].matches('\n').count();
        if let Some(problem) = check.get_ref().problem() {
            anyhow::bail!("`{}`, line {line}: {problem}", path.display());
        }
    }
    Ok(check.into_iter().map(toml::Spanned::into_inner).collect())
}

fn print(found: &[Checked], context: &Context) {
    if context.console.is_json() {
        found.iter().for_each(|checked| context.console.event(&Event { r#type: "check", checked }));
        return;
    }
    let line = |checked: &Checked| {
        let (outcome, name) = (checked.outcome().to_owned(), checked.name());
        let [value, limit] = [checked.value, checked.limit].map(|value| layout::number(value, 4));
        [outcome, name, layout::printable(&checked.scope), value, limit, layout::printable(&checked.message)]
    };
    let head = ["", "check", "scope", "value", "limit", "found"].map(str::to_owned);
    let lines: Vec<[String; 6]> = std::iter::once(head).chain(found.iter().map(line)).collect();
    print_line(layout::aligned(&lines).trim_end());
}
