//! Elements of HTML and SVG. Text and the values of attributes can only get into a page through functions that escape
//! them, so a prompt cannot become markup.

use std::fmt::{Display, Write as _};

use agiqa_store::layout;

/// Elements that have no content and no end.
const VOID: [&str; 2] = ["meta", "img"];

/// An element with its content.
#[derive(Clone, Debug)]
pub(crate) struct Html {
    name: &'static str,
    attributes: String,
    content: String,
}

/// The element `name`, without attributes and content.
pub(crate) fn el(name: &'static str) -> Html {
    Html { name, attributes: String::new(), content: String::new() }
}

impl Html {
    /// With the attribute `name`.
    pub(crate) fn attr(mut self, name: &'static str, value: impl Display) -> Self {
        let _ = write!(self.attributes, " {name}=\"{}\"", escaped(&value.to_string()));
        self
    }

    /// With `text` at the end of the content. Control characters and marks of direction are shown as escapes.
    pub(crate) fn text(mut self, text: impl AsRef<str>) -> Self {
        self.content.push_str(&escaped(text.as_ref()));
        self
    }

    /// With markup of this program's own, such as a style sheet.
    pub(crate) fn own(mut self, markup: &'static str) -> Self {
        self.content.push_str(markup);
        self
    }

    /// With `child` at the end of the content.
    pub(crate) fn add(mut self, child: Self) -> Self {
        child.write(&mut self.content);
        self
    }

    /// With `children` at the end of the content.
    pub(crate) fn add_all(self, children: impl IntoIterator<Item = Self>) -> Self {
        children.into_iter().fold(self, Self::add)
    }

    fn write(&self, out: &mut String) {
        let Self { name, attributes, content } = self;
        let _ = write!(out, "<{name}{attributes}>{content}");
        if !VOID.contains(name) {
            let _ = write!(out, "</{name}>");
        }
    }
}

impl Display for Html {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        self.write(&mut text);
        f.write_str(&text)
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in layout::printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_cannot_become_markup() {
        let hostile = "</td><script>alert('1')</script>&\"\u{202e}\n";
        let shown = "&lt;/td&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;\\u{202e}\\n";
        assert_eq!(el("td").text(hostile).to_string(), format!("<td>{shown}</td>"));
        assert_eq!(el("img").attr("alt", hostile).to_string(), format!("<img alt=\"{shown}\">"));
        assert_eq!(
            el("p").add(el("b").text("1")).add_all([el("i"), el("i")]).to_string(),
            "<p><b>1</b><i></i><i></i></p>"
        );
    }
}
