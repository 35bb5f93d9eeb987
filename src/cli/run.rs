//! `agiqa run`: runs the stages of a pipeline whose inputs have changed.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

use super::exit::Exit;
use super::judging::Judged;
use super::{Context, path_argument, set_argument};
use super::{check, report};
use crate::pipeline::absent::{self, LeftOut};
use crate::pipeline::plan::{self, Action, StageName, Step};
use crate::pipeline::{Pipeline, ScoreSettings, Scored, summary};
use crate::registry;
use agiqa_judge::check::CheckSettings;
use agiqa_judge::compare::ComparisonReport;
use agiqa_judge::compare::table1::{Lacking, Table1};
use agiqa_judge::paper;
use agiqa_judge::scorer::Scorer;
use agiqa_store::console::print;
use agiqa_store::stage::{Stage, StageContext};
use agiqa_store::store::run_log::RunLog;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::models::Runs;

/// Arguments of `agiqa run`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// File of the pipeline, e.g. `pipelines/example.toml`.
    #[arg(value_name = "PIPELINE.toml")]
    pipeline: PathBuf,
    /// Set a parameter (`root=/data/agiqa-3k`), or override any key (`train.epochs=3`). Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = set_argument())]
    set: Vec<String>,
    /// The store: a folder or `s3://…`. Default: the pipeline's own `store`.
    #[arg(long, value_name = "URL", value_parser = path_argument())]
    store: Option<String>,
    /// Print the stages that would run, with reasons, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Run only this stage, on the store's current content: ingest, features, baseline, score, split, train,
    /// predict, evaluate, compare, experiment or report. Repeatable.
    #[arg(long = "stage", value_name = "STAGE")]
    stages: Vec<StageName>,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let pipeline = Pipeline::load(&args.pipeline, &args.set)?;
    let store_url = args.store.as_deref().or(pipeline.store.as_deref()).with_context(|| {
        format!("`{}` names no store: add `--store FOLDER`, or `store = …` to the file", args.pipeline.display())
    })?;
    let steps = pipeline.steps()?;
    let left_out: Vec<&StageName> =
        args.stages.iter().filter(|stage| !steps.iter().any(|step| step.name == **stage)).collect();
    let left_out: Vec<&StageName> =
        left_out.into_iter().filter(|stage| **stage != StageName::Score || pipeline.score.is_none()).collect();
    if let Some(stage) = left_out.first() {
        anyhow::bail!("`{}` has no stage `{stage}`: its table is missing there", args.pipeline.display());
    }
    let steps = plan::select(steps, &args.stages);
    let wants_score = args.stages.is_empty() || args.stages.contains(&StageName::Score);
    if args.dry_run {
        let store = Store::open(store_url, OpenMode::AbsentIsEmpty)?;
        let mut steps = steps;
        if let Some(score) = pipeline.score.as_ref().filter(|_| wants_score) {
            steps.extend(score_steps(score, &store, steps.len())?);
        }
        return dry_run(&pipeline, &steps, &store, context);
    }
    let store = Store::open(store_url, OpenMode::CreateIfMissing)?;
    context.console.event(&json!({
        "type": "plan",
        "pipeline": pipeline.name,
        "store": store.url(),
        "dry_run": false,
        "stages": steps.iter().map(|step| json!({ "stage": step.stage.name() })).collect::<Vec<_>>(),
    }));
    super::with_run_log("run", &store.clone(), context, |log| {
        let stage_context = context.on(store);
        let (mut exit, left_out) = execute_steps(&steps, pipeline.skip_absent_weights, &stage_context, log)?;
        if exit == Exit::Interrupted {
            return Ok(exit);
        }
        if let Some(score) = pipeline.score.as_ref().filter(|_| wants_score) {
            exit = exit.and(score_night(&pipeline, score, &stage_context, context, log)?);
            if exit == Exit::Interrupted || steps.is_empty() {
                return Ok(exit);
            }
        }
        print_results(&pipeline, &steps, &left_out, &stage_context.store, context)?;
        Ok(exit)
    })
}

/// The steps of `[score]`, each after all `n_before` earlier steps and those of its own.
fn score_steps(score: &ScoreSettings, store: &Store, n_before: usize) -> anyhow::Result<Vec<Step>> {
    let Some(settings) = score.scored_night()? else { return Ok(Vec::new()) };
    let stages = score.stages(store, &Runs::default(), Scored::Night(settings))?;
    let step =
        |(index, stage)| Step { name: StageName::Score, stage, after: (0..n_before + index).collect(), method: None };
    Ok(stages.into_iter().enumerate().map(step).collect())
}

/// Scores the night of `[score]` and runs its checks. The stages are made now, because an earlier stage of the pipeline may
/// have trained what scores.
fn score_night(
    pipeline: &Pipeline,
    score: &ScoreSettings,
    stage_context: &StageContext,
    context: &Context,
    log: &mut RunLog,
) -> anyhow::Result<Exit> {
    let (store, records) = (&stage_context.store, Runs::default());
    let Some(settings) = score.scored_night()? else { return Ok(Exit::Done) };
    let night = settings.night.clone();
    context.done.set_night(&night.corpus, &night.night);
    let stages = score.stages(store, &records, Scored::Night(settings))?;
    let stages: Vec<&dyn Stage> = stages.iter().map(AsRef::as_ref).collect();
    let mut exit = super::execute_all(&stages, stage_context, log)?;
    if exit == Exit::Interrupted {
        return Ok(exit);
    }
    let mut scorers: Vec<Scorer> =
        score.methods.iter().map(|method| Scorer::Method(method.as_str().to_owned())).collect();
    scorers.extend(score.run.clone().map(Scorer::Run).or_else(|| score.group.clone().map(Scorer::Group)));
    let mut checks = pipeline.checks.clone();
    check::allow_rejects(&mut checks, context);
    for scorer in &scorers {
        if !checks.is_empty() {
            let judged = Judged::of_night(store, &night, scorer)?;
            exit = exit.and(check::checked(store, &judged, scorer, &checks, context, log)?);
        }
        if let Some(section) = &pipeline.report {
            let checks = if checks.is_empty() { CheckSettings::defaults() } else { checks.clone() };
            let stage = report::night_stage(store, &night, scorer, checks, section.thumbnails)?;
            super::execute(&stage, stage_context, log)?;
            report::say(Path::new(store.url()).join(stage.subject.html_path()), context);
        }
    }
    Ok(exit)
}

/// Runs `steps` up to an interrupt. With `skip_absent_weights`, also returns the steps that were left out for lack of
/// weights.
fn execute_steps(
    steps: &[Step],
    skip_absent_weights: bool,
    context: &StageContext,
    log: &mut RunLog,
) -> anyhow::Result<(Exit, Vec<LeftOut>)> {
    let mut left_out = Vec::new();
    let exit = super::in_turn(steps.iter().enumerate(), context, |(idx, step)| {
        let reason = match absent::consequence(steps, idx, &left_out) {
            Some(reason) => reason,
            None => match super::execute(step.stage.as_ref(), context, log) {
                Err(error) if skip_absent_weights => match absent::absence(error.as_ref()) {
                    Some(reason) => reason,
                    None => return Err(error),
                },
                ended => return ended,
            },
        };
        context.console.warn(format!("{} is left out: {reason}", step.stage.name()));
        left_out.push(LeftOut { step: idx, reason });
        Ok(Exit::Done)
    })?;
    Ok((exit, left_out))
}

fn dry_run(pipeline: &Pipeline, steps: &[Step], store: &Store, context: &Context) -> anyhow::Result<Exit> {
    let (actions, error) = plan::plan(steps, store, pipeline.skip_absent_weights);
    let word = |action: &Action| match action {
        Action::Skip(_) => "skip",
        Action::Run(_) => "run",
        Action::After(_) => "after",
        Action::Blocked => "fails",
    };
    let reason = |action: &Action| match action {
        Action::Skip(reason) | Action::Run(reason) => reason.clone(),
        Action::After(stages) => {
            let others = if stages.len() > 1 { format!(" and {} more", stages.len() - 1) } else { String::new() };
            format!("seen after {}{others}", stages[0])
        }
        Action::Blocked => "its inputs are missing or broken".to_owned(),
    };
    let planned = steps.iter().zip(&actions);
    let has_training = steps.iter().any(|step| step.name == StageName::Train);
    let runs = if has_training { pipeline.runs()? } else { Vec::new() };
    if context.console.is_json() {
        let stages = planned.map(
            |(step, action)| json!({ "stage": step.stage.name(), "action": word(action), "reason": reason(action) }),
        );
        context.console.event(&json!({
            "type": "plan",
            "pipeline": pipeline.name,
            "store": store.url(),
            "dry_run": true,
            "stages": stages.collect::<Vec<_>>(),
            "runs": runs.iter().map(|(variant, run)| json!({ "variant": variant, "run": run })).collect::<Vec<_>>(),
        }));
    } else {
        let mut text = format!("plan of {} on store {} (nothing is changed)\n", pipeline.name, store.url());
        for (step, action) in planned {
            text.push_str(&format!("  {:<5}  {}: {}\n", word(action), step.stage.name(), reason(action)));
        }
        if !pipeline.variants.is_empty() && !runs.is_empty() {
            text.push_str(&format!("{} runs\n", runs.len()));
            let width = runs.iter().map(|(variant, _)| variant.chars().count()).max().unwrap_or(0);
            runs.iter().for_each(|(variant, run)| text.push_str(&format!("  {variant:<width$}  {run}\n")));
        }
        print(&text);
    }
    match error {
        Some(error) => Err(error.into()),
        None => Ok(Exit::Done),
    }
}

/// The paper's Table 1 per kind of split; empty if the pipeline asks for none.
fn tables1(
    pipeline: &Pipeline,
    steps: &[Step],
    left_out: &[LeftOut],
    reports: &[ComparisonReport],
) -> anyhow::Result<Vec<Table1>> {
    if !pipeline.compare.as_ref().is_some_and(|compare| compare.has_table1) {
        return Ok(Vec::new());
    }
    let names = pipeline.runs()?.into_iter().map(|(variant, run)| (run.to_string(), variant)).collect();
    let reason_of = |method: &str, is_of: &dyn Fn(StageName) -> bool| {
        let is_of =
            |left: &&LeftOut| steps[left.step].method.as_deref() == Some(method) && is_of(steps[left.step].name);
        left_out.iter().find(is_of).map(|left| left.reason.clone())
    };
    let lacking = Lacking {
        trained: steps
            .iter()
            .filter(|step| step.name == StageName::Train)
            .filter_map(|step| step.method.clone())
            .collect(),
        scores: &|method: &str| {
            let row = registry::ROWS.iter().find(|row| row.paper_row == Some(method));
            match (reason_of(method, &|name| name != StageName::Train), row) {
                (Some(reason), _) => Some(reason),
                (None, Some(row)) => Some(format!("nothing here scores by `{}` ({})", row.name, row.needs_in_words())),
                (None, None) if method == paper::METHOD => {
                    Some("no run on the paper's features, which need the weights of mplug-owl2 and maniqa".to_owned())
                }
                (None, None) => None,
            }
        },
        training: &|method: &str| reason_of(method, &|name| name == StageName::Train),
    };
    Ok(Table1::of(reports, &names, &lacking))
}

/// Prints the metrics and the places of the tables, even if nothing had to run.
fn print_results(
    pipeline: &Pipeline,
    steps: &[Step],
    left_out: &[LeftOut],
    store: &Store,
    context: &Context,
) -> anyhow::Result<()> {
    let (mut text, records) = (String::new(), Runs::default());
    let is_left_out = |stage: &dyn Stage| {
        let name = stage.name();
        left_out.iter().any(|left| steps[left.step].stage.name() == name)
    };
    let has = |name: StageName| steps.iter().any(|step| step.name == name);
    let experiment = pipeline.experiment_stage()?.filter(|stage| has(StageName::Experiment) && !is_left_out(stage));
    if let Some(stage) = &experiment {
        let report = stage.report(store).map_err(anyhow::Error::from_boxed)?;
        text.push_str(&if context.console.is_json() { report.json_lines() } else { report.text() + "\n" });
    }
    // An experiment's pipeline prints its table instead of each variant's metrics, which are in the store.
    let has_evaluated = experiment.is_none() && has(StageName::Evaluate);
    let evaluated = if has_evaluated { pipeline.evaluate_stages(&records)? } else { Vec::new() };
    for stage in evaluated.into_iter().filter(|stage| !is_left_out(stage)) {
        let report = stage.report(store).map_err(anyhow::Error::from_boxed)?;
        text.push_str(&if context.console.is_json() { report.json_lines() } else { report.text() + "\n" });
    }
    let mut reports = Vec::new();
    // Without any method, it has no rows.
    if has(StageName::Compare) {
        for stage in pipeline.compare_stages(&records) {
            reports.push(stage.report(store).map_err(anyhow::Error::from_boxed)?);
        }
    }
    let tables1 = tables1(pipeline, steps, left_out, &reports)?;
    for table in &tables1 {
        text.push_str(&if context.console.is_json() { table.json_lines() } else { table.text() + "\n" });
    }
    // What is missing is the same on all splits.
    let missing = tables1.first().map(Table1::missing).filter(|missing| !missing.is_empty());
    if let Some(missing) = missing.filter(|_| !context.console.is_json()) {
        text.push_str(&(missing + "\n"));
    }
    // The tables hold what the single comparisons say, which are in the store.
    let printed = if pipeline.compare.as_ref().is_some_and(|compare| compare.has_table1) { &[] } else { &reports[..] };
    for report in printed {
        text.push_str(&if context.console.is_json() { report.json_lines() } else { report.text() + "\n" });
    }
    let tables = summary::tables(store)?;
    if context.console.is_json() {
        print(&text);
        context.console.event(&tables);
    } else {
        print(format!("{text}{tables}"));
    }
    let reports = if has(StageName::Report) { pipeline.report_stages(&records)? } else { Vec::new() };
    for (_, stage) in reports.iter().filter(|(_, stage)| !is_left_out(stage)) {
        report::say(Path::new(store.url()).join(stage.subject.html_path()), context);
    }
    Ok(())
}
