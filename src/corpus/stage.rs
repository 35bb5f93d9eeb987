//! The stage that takes up a night.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::intake::{Intake, STAGE};
use super::known::Known;
use super::{CorpusError, Night};
use crate::engine::LeftOutFiles;
use agiqa_sources::{Named, SourceError};
use agiqa_store::identity::ImageId;
use agiqa_store::path_text::text_of;
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::Store;
use agiqa_store::store::shard::Shard;
use agiqa_store::tables::{images, night_scores, rejects};

/// What becomes of the rows of a night that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// They stay, and what is new in the sources is added.
    #[default]
    Kept,
    /// They are deleted first: the night is what the sources hold now.
    Replaced,
}

/// Settings of the stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorpusSettings {
    /// The night.
    pub night: Night,
    /// Folders, lists, tar files, Parquet files, images.
    pub sources: Vec<PathBuf>,
    /// The columns of images of Parquet files, if several hold bytes.
    pub image_columns: Vec<String>,
    /// The share of the files to take up.
    pub shard: Shard,
    /// What becomes of a night that exists.
    pub existing: Existing,
}

/// Takes up a night.
#[derive(Clone, Debug)]
pub struct CorpusStage {
    /// Settings.
    pub settings: CorpusSettings,
}

impl CorpusStage {
    fn take_up(&self, context: &StageContext) -> Result<StageReport, CorpusError> {
        let (store, settings) = (&context.store, &self.settings);
        let dataset = settings.night.dataset()?;
        let is_whole = settings.shard == Shard::WHOLE;
        if images::is_ingested(store, &dataset)? {
            return Err(CorpusError::Ingested(dataset));
        }
        let find = |path: &PathBuf| Named::find(path, &settings.image_columns);
        let sources = settings.sources.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        match settings.existing {
            Existing::Kept => {}
            Existing::Replaced if !is_whole => return Err(CorpusError::ReplacedShare),
            Existing::Replaced => {
                images::delete(store, &dataset)?;
                night_scores::forget(store, &settings.night.corpus, &settings.night.night)?;
            }
        }
        if is_whole {
            // They follow from the inventory, and what could not be read is tried again.
            rejects::delete_of(store, STAGE, &dataset)?;
        }
        let known = Known::read(store, &settings.night.corpus, &settings.night.night)?;
        let mut intake = Intake::new(context, settings, &dataset, &known)?;
        for source in sources {
            if context.interrupt.is_raised() {
                break;
            }
            let path = source.path().to_owned();
            let (n_before, n_left_out) = (intake.rows.n_in + intake.n_repeated, intake.left_out.len());
            take_source(source, &known, &mut intake)?;
            let is_empty = n_before == intake.rows.n_in + intake.n_repeated;
            if is_empty && is_whole && !context.interrupt.is_raised() {
                let left_out = LeftOutFiles::below(&path, intake.left_out.split_off(n_left_out));
                return Err(CorpusError::NoImage { path: text_of(&path), left_out: left_out.to_string() });
            }
        }
        intake.flush()?;
        Ok(self.report(intake, context))
    }

    fn report(&self, intake: Intake<'_>, context: &StageContext) -> StageReport {
        let folder = self.settings.sources.first().and_then(|path| path.canonicalize().ok());
        let left_out = LeftOutFiles::below(folder.as_deref().unwrap_or(Path::new("")), intake.left_out);
        if let Ok(dataset) = self.settings.night.dataset() {
            left_out.emit(&dataset, context.console);
        }
        if intake.n_changed > 0 {
            context.console.warn(format!(
                "{} files have changed since the night was recorded, which keeps them as they were: `--replace` takes \
                 them up again",
                intake.n_changed
            ));
        }
        let (rows, n_opened) = (intake.rows, intake.n_opened);
        let mut summary = format!("{} images, {n_opened} files opened", rows.n_out);
        if rows.n_rejected > 0 {
            summary.push_str(&format!(", {} rejected (reasons: table `rejects`, stage `{STAGE}`)", rows.n_rejected));
        }
        if intake.n_repeated > 0 {
            summary.push_str(&format!(", {} named more than once", intake.n_repeated));
        }
        StageReport { rows, summary: summary + &left_out.to_string(), interrupted: context.interrupt.is_raised() }
    }
}

/// Takes up one source. A file that the inventory knows as a whole is not opened.
fn take_source(source: Named, known: &Known, intake: &mut Intake<'_>) -> Result<(), CorpusError> {
    let container = source.container();
    let hash = ImageId::of_bytes(text_of(source.path()).as_bytes());
    if let Some((uri, version)) = &container
        && known.members(uri, version).is_some()
    {
        return if intake.is_of_share(&hash) { intake.add_known(uri, version) } else { Ok(()) };
    }
    let source = source.open()?;
    let container = container.filter(|_| source.is_container());
    // The rows of a list may belong to any share; a container is read by one.
    if container.is_some() && !intake.is_of_share(&hash) {
        return Ok(());
    }
    let (mut failure, uri) = (None, container.as_ref().map(|(uri, _)| uri.clone()));
    let interrupt = intake.interrupt();
    let listed = source.list(&mut |entry| match intake.add(entry, uri.as_deref()) {
        Ok(()) if interrupt.is_raised() => ControlFlow::Break(()),
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    intake.left_out.extend(listed.left_out);
    intake.work_off()?;
    match container {
        Some((uri, version)) => intake.complete(uri, version),
        None => Ok(()),
    }
}

impl Stage for CorpusStage {
    fn name(&self) -> String {
        let Night { corpus, night } = &self.settings.night;
        format!("corpus {corpus}, night {night}")
    }

    fn freshness(&self, _store: &Store) -> Result<Freshness, StageError> {
        // A wrong source ends a dry run, too.
        for path in &self.settings.sources {
            Named::find(path, &self.settings.image_columns).map_err(|error: SourceError| CorpusError::from(error))?;
        }
        Ok(Freshness::Stale { reason: "the sources are listed each time".to_owned() })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.take_up(context)?)
    }
}
