//! The frame of a page: head, landmarks, panels, tables, images.

use crate::html::{Html, el};
use crate::thumbnail::Shown;

/// Nothing is loaded and nothing runs: all that the page needs is in it.
const POLICY: &str =
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

const STYLE: &str = include_str!("style.css");

/// A section of a page, with an address and a heading.
pub(crate) struct Panel {
    id: &'static str,
    title: String,
    content: Vec<Html>,
}

impl Panel {
    /// The panel `id`, which begins with `note`.
    pub(crate) fn new(id: &'static str, title: &str, note: &str) -> Self {
        let content = if note.is_empty() { Vec::new() } else { vec![el("p").text(note)] };
        Self { id, title: title.to_owned(), content }
    }

    pub(crate) fn add(mut self, content: Html) -> Self {
        self.content.push(content);
        self
    }

    pub(crate) fn add_all(mut self, content: impl IntoIterator<Item = Html>) -> Self {
        self.content.extend(content);
        self
    }

    fn html(self) -> Html {
        let heading = format!("{}-title", self.id);
        el("section")
            .attr("id", self.id)
            .attr("aria-labelledby", &heading)
            .add(el("h2").attr("id", &heading).text(&self.title))
            .add_all(self.content)
    }
}

/// The whole page.
pub(crate) fn page(title: &str, about: &str, panels: Vec<Panel>) -> String {
    let meta = |name: &'static str, content: &str| el("meta").attr("name", name).attr("content", content);
    let head = el("head")
        .add(el("meta").attr("charset", "utf-8"))
        .add(el("meta").attr("http-equiv", "Content-Security-Policy").attr("content", POLICY))
        .add(meta("viewport", "width=device-width, initial-scale=1"))
        .add(meta("color-scheme", "light dark"))
        .add(meta("generator", concat!("agiqa ", env!("CARGO_PKG_VERSION"))))
        .add(el("title").text(title))
        .add(el("style").own(STYLE));
    let link = |panel: &Panel| el("li").add(el("a").attr("href", format!("#{}", panel.id)).text(&panel.title));
    let links = el("ul").add_all(panels.iter().map(link));
    let header = el("header")
        .add(el("h1").text(title))
        .add(el("p").text(about))
        .add(el("nav").attr("aria-label", "Panels").add(links));
    let main = el("main").attr("id", "main").add_all(panels.into_iter().map(Panel::html));
    let footer =
        el("footer").text(concat!("agiqa ", env!("CARGO_PKG_VERSION"), ". The same tables give the same page."));
    let skip = el("a").attr("class", "skip").attr("href", "#main").text("Skip to the panels");
    let body = el("body").add(skip).add(header).add(main).add(footer);
    format!("<!DOCTYPE html>\n{}\n", el("html").attr("lang", "en").add(head).add(body))
}

/// Charts next to each other where there is room.
pub(crate) fn charts(charts: impl IntoIterator<Item = Html>) -> Html {
    el("div").attr("class", "charts").add_all(charts)
}

/// A sentence that says that something is not there.
pub(crate) fn none(text: &str) -> Html {
    el("p").attr("class", "none").text(text)
}

/// A table. The first cell of a row names it. A table that is too wide scrolls.
pub(crate) fn table(caption: &str, head: &[&str], rows: &[Vec<String>]) -> Html {
    let heads = head.iter().map(|name| el("th").attr("scope", "col").text(name));
    let row = |cells: &Vec<String>| {
        let cell = |(index, text): (usize, &String)| {
            let cell = if index == 0 { el("th").attr("scope", "row") } else { el("td") };
            let cell = match text.as_str() {
                "FAIL" => cell.attr("class", "bad"),
                "warn" => cell.attr("class", "warn"),
                "ok" => cell.attr("class", "ok"),
                text if index > 0 && is_number(text) => cell.attr("class", "n"),
                _ => cell,
            };
            cell.text(text)
        };
        el("tr").add_all(cells.iter().enumerate().map(cell))
    };
    let table = el("table")
        .add(el("caption").text(caption))
        .add(el("thead").add(el("tr").add_all(heads)))
        .add(el("tbody").add_all(rows.iter().map(row)));
    el("div").attr("class", "wide").attr("role", "region").attr("tabindex", 0).attr("aria-label", caption).add(table)
}

/// A table that is folded away.
pub(crate) fn folded(caption: &str, head: &[&str], rows: &[Vec<String>]) -> Html {
    el("details").add(el("summary").text(format!("Numbers: {caption}"))).add(table(caption, head, rows))
}

fn is_number(text: &str) -> bool {
    text == agiqa_store::layout::NONE || text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '−'))
}

/// Images with what is known of each; `about` gives the lines below an image.
pub(crate) fn images<'a>(shown: impl IntoIterator<Item = &'a Shown>, about: impl Fn(&Shown) -> Vec<String>) -> Html {
    let card = |shown: &Shown| {
        let mut card = el("li");
        card = match &shown.thumbnail {
            Some(thumbnail) => card.add(
                el("img")
                    .attr("src", &thumbnail.uri)
                    .attr("width", thumbnail.width_px)
                    .attr("height", thumbnail.height_px)
                    .attr("alt", format!("{}: {}", shown.name, shown.prompt.as_deref().unwrap_or("without a prompt"))),
            ),
            None => card.add(none("no thumbnail")),
        };
        let lines = about(shown).into_iter().map(|line| el("div").text(line));
        let prompt = shown.prompt.iter().map(|prompt| el("div").attr("dir", "auto").text(prompt));
        card.add(el("div").add(el("strong").text(&shown.name))).add_all(lines).add_all(prompt)
    };
    el("ul").attr("class", "cards").add_all(shown.into_iter().map(card))
}
