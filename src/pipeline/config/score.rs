//! `[score]` and `[[check]]`: a night of a corpus, what scores it, and when it is good.

use super::Reader;
use crate::pipeline::ScoreSettings;
use crate::pipeline::de;
use crate::pipeline::error::ConfigError;
use crate::pipeline::tree::{Node, NodeValue};
use agiqa_judge::check::CheckSettings;

impl Reader<'_> {
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
