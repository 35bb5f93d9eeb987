//! `[baseline]` and `[scorer.…]`: what scores datasets without a training. `[score]` and `[[check]]`: a night of a corpus,
//! what scores it, and when it is good.

use super::Reader;
use crate::baselines::BaselineSettings;
use crate::pipeline::ScoreSettings;
use crate::pipeline::de;
use crate::pipeline::error::{ConfigError, suggestion};
use crate::pipeline::overlay::read_rating_settings;
use crate::pipeline::tree::{Entry, Node, NodeValue};
use crate::ratings::RatingSettings;
use agiqa_judge::check::CheckSettings;
use agiqa_nets::raters::RaterName;

impl Reader<'_> {
    pub(super) fn baseline(&mut self) -> Result<Option<BaselineSettings>, ConfigError> {
        let Some(node) = self.document.remove("baseline") else { return Ok(None) };
        let settings: BaselineSettings = de::settings(self.sources, "baseline", &node, &[])?;
        settings.check().map_err(|error| self.wrong(node.origin, format!("`baseline`: {error}")))?;
        Ok(Some(settings))
    }

    /// A rating network per table `[scorer.<name>]`.
    pub(super) fn scorers(&mut self) -> Result<Vec<RatingSettings>, ConfigError> {
        let Some(node) = self.document.remove("scorer") else { return Ok(Vec::new()) };
        if !matches!(node.value, NodeValue::Table(_)) {
            let problem = format!("`scorer`: expected tables `[scorer.<name>]`, found {}", node.kind());
            return Err(self.wrong(node.origin, problem));
        }
        let scorer = |entry: &Entry| {
            let name = entry.key.parse::<RaterName>().map_err(|_| {
                let names: Vec<&str> = RaterName::ALL.iter().map(|name| name.as_str()).collect();
                let problem = format!("unknown scorer `{}`{}", entry.key, suggestion(&entry.key, &names));
                self.wrong(entry.key_origin, problem)
            })?;
            read_rating_settings(self.sources, name, entry.node.clone())
        };
        node.entries().iter().map(scorer).collect()
    }

    /// `[score]` and the `[[check]]` tables of its night.
    pub(super) fn score(&mut self) -> Result<(Option<ScoreSettings>, Vec<CheckSettings>), ConfigError> {
        let checks = self.document.remove("check");
        let Some(node) = self.document.remove("score") else {
            return match checks {
                Some(checks) => Err(self.wrong(checks.origin, "`[[check]]` needs `[score]`, whose night it checks")),
                None => Ok((None, Vec::new())),
            };
        };
        let settings: ScoreSettings = de::settings(self.sources, "score", &node, &[])?;
        match settings.scored_night() {
            Ok(Some(_)) => {}
            Ok(None) => return Err(self.wrong(node.origin, "`[score]` needs `sources`, `corpus` and `night`")),
            Err(error) => return Err(self.wrong(node.origin, format!("`score`: {error}"))),
        }
        let Some(checks) = checks else { return Ok((Some(settings), Vec::new())) };
        let checks = match checks.value {
            NodeValue::Array(tables) => {
                let check = |table: &Node| {
                    let check: CheckSettings = de::settings(self.sources, "check", table, &[])?;
                    check.problem().map_or(Ok(check), |problem| Err(self.wrong(table.origin, problem)))
                };
                tables.iter().map(check).collect::<Result<Vec<_>, _>>()?
            }
            _ => return Err(self.wrong(checks.origin, "`check`: expected `[[check]]` tables")),
        };
        Ok((Some(settings), checks))
    }
}
