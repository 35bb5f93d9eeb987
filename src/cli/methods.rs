//! `agiqa methods`: every network and method of the registry.

use super::Context;
use super::exit::Exit;
use super::weights::print_line;
use crate::registry::{ROWS, Row};
use agiqa_store::layout;

/// Format of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// An aligned table.
    Text,
    /// A Markdown table.
    Markdown,
}

/// Arguments of `agiqa methods`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Output format.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    if context.console.is_json() {
        for row in ROWS {
            context.console.event(&serde_json::json!({
                "type": "method",
                "name": row.name,
                "about": row.about,
                "fills": row.fills_in_words(),
                "weights": row.needs_in_words(),
                "settings": row.own_settings(),
                "paper_row": row.paper_row,
            }));
        }
        return Ok(Exit::Done);
    }
    let head = ["name", "fills", "weights", "settings", "row of table 1", "about"].map(str::to_owned);
    let lines: Vec<[String; 6]> = std::iter::once(head).chain(ROWS.iter().map(cells)).collect();
    let text = match args.format {
        Format::Text => layout::aligned(&lines),
        Format::Markdown => layout::markdown(&lines),
    };
    print_line(text.trim_end());
    Ok(Exit::Done)
}

fn cells(row: &Row) -> [String; 6] {
    let settings = match row.own_settings() {
        settings if settings.is_empty() => layout::NONE.to_owned(),
        settings => settings.join(", "),
    };
    [
        row.name.to_owned(),
        row.fills_in_words(),
        row.needs_in_words(),
        settings,
        row.paper_row.unwrap_or(layout::NONE).to_owned(),
        row.about.to_owned(),
    ]
}
