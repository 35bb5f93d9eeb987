//! The delimiter of a text, told by the numbers of fields that each candidate gives.

use std::borrow::Cow;
use std::collections::HashSet;

use csv::{ByteRecord, ReaderBuilder};

use crate::Delimiter;
use crate::values::{is_missing, names_image, number};

/// Size of the sample and number of its rows that are looked at.
const SAMPLE_BYTES: usize = 256 << 10;
const SAMPLE_ROWS: usize = 300;

/// Candidates, the most usual first.
const CANDIDATES: [u8; 4] = [b',', b'\t', b';', b'|'];

/// Greatest number of lines with a title before the header.
const MAX_TITLES: usize = 5;

/// How a text is divided into fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) delimiter: Delimiter,
    /// Number of leading rows that hold a title alone.
    pub(crate) n_titles: usize,
    /// Number of cells that every row of the sample has behind the header's last.
    pub(crate) n_trailing: usize,
    /// Every row begins with a name that the header has no cell for.
    pub(crate) has_row_names: bool,
    /// A backslash stands before a quote within quotes, instead of a second quote.
    pub(crate) has_escapes: bool,
    pub(crate) quote: u8,
    /// Number of bytes of a leading line `sep=`.
    pub(crate) n_skipped: usize,
}

/// The dialect of `text`; a given `delimiter` is kept.
pub(crate) fn of(text: &[u8], delimiter: Option<Delimiter>) -> Dialect {
    let (named, n_skipped) = sep_line(text);
    let text = &text[n_skipped..];
    let sample = sample(text);
    if let Some(delimiter) = delimiter.or(named) {
        return Dialect::new(delimiter, Fit::of(sample, delimiter), n_skipped, sample);
    }
    let fits: Vec<Fit> = CANDIDATES.iter().filter_map(|byte| Fit::of(sample, Delimiter::Byte(*byte))).collect();
    let mut best = fits.iter().max_by_key(|fit| fit.rank()).copied();
    if let Some(comma) = best.filter(|fit| fit.delimiter == Delimiter::Byte(b',')) {
        // `a.png;1,5`: every row has a comma, but each is a decimal mark.
        let rival = fits.iter().filter(|fit| fit.delimiter != comma.delimiter).max_by_key(|fit| fit.rank());
        best = rival.filter(|rival| rival.is_whole() && commas_are_decimal(sample)).or(Some(&comma)).copied();
    }
    if best.is_none_or(|fit| !fit.is_whole()) {
        // Blanks divide prose, too, and then a header without blanks would pass for a title.
        let blanks = Fit::of(sample, Delimiter::Blanks).filter(|fit| fit.is_whole() && fit.n_titles == 0);
        best = blanks.or(best);
    }
    let delimiter = best.map_or(Delimiter::Byte(b','), |fit| fit.delimiter);
    Dialect::new(delimiter, best, n_skipped, sample)
}

impl Dialect {
    fn new(delimiter: Delimiter, fit: Option<Fit>, n_skipped: usize, sample: &[u8]) -> Self {
        let (n_titles, n_trailing) = fit.map_or((0, 0), |fit| (fit.n_titles, fit.n_trailing));
        let has_row_names = fit.is_some_and(|fit| fit.has_row_names);
        let (has_escapes, quote) = (has_escapes(sample, delimiter), quote(sample, delimiter));
        Self { delimiter, n_titles, n_trailing, has_row_names, has_escapes, quote, n_skipped }
    }
}

/// The mark around cells: `'` if every cell of the first line stands between two of them.
fn quote(sample: &[u8], delimiter: Delimiter) -> u8 {
    let Delimiter::Byte(delimiter) = delimiter else { return b'"' };
    let line = sample.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
    let is_quoted = |cell: &[u8]| matches!(cell.trim_ascii(), [b'\'', .., b'\'']);
    if line.split(|byte| *byte == delimiter).all(is_quoted) { b'\'' } else { b'"' }
}

/// Whether quotes within quotes follow a backslash, as Spark and MySQL write them, and none is doubled.
fn has_escapes(sample: &[u8], delimiter: Delimiter) -> bool {
    let Delimiter::Byte(delimiter) = delimiter else { return false };
    let is_doubled = |triple: &[u8]| {
        triple[1..] == *b"\"\"" && !matches!(triple[0], b'\n' | b'\r' | b'\\') && triple[0] != delimiter
    };
    // A folder's name may end with a backslash, before the quote that closes the cell.
    let is_escaped =
        |triple: &[u8]| triple[..2] == *b"\\\"" && !matches!(triple[2], b'\n' | b'\r' | b'"') && triple[2] != delimiter;
    sample.windows(3).any(is_escaped) && !sample.windows(3).any(is_doubled)
}

/// `text` without the blanks between a delimiter and the quote that opens a cell, which would make the quote a part of the
/// cell. `None` if the first lines have no such blanks.
pub(crate) fn without_blanks_before_quotes(text: &[u8]) -> Option<Vec<u8>> {
    const BLANK_AND_QUOTE: [&[u8]; 3] = [b", \"", b"; \"", b"\t \""];
    if !sample(text).windows(3).any(|triple| BLANK_AND_QUOTE.contains(&triple)) {
        return None;
    }
    let (mut kept, mut is_quoted, mut at) = (Vec::with_capacity(text.len()), false, 0);
    while let Some(byte) = text.get(at) {
        kept.push(*byte);
        at += 1;
        is_quoted ^= *byte == b'"';
        if !is_quoted && matches!(byte, b',' | b';' | b'\t') {
            let n_blanks = text[at..].iter().take_while(|byte| **byte == b' ').count();
            at += if text.get(at + n_blanks) == Some(&b'"') { n_blanks } else { 0 };
        }
    }
    Some(kept)
}

/// A leading line `sep=;` of spreadsheets, and its length with its line end.
fn sep_line(text: &[u8]) -> (Option<Delimiter>, usize) {
    let end = text.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(text.len());
    let line = text[..end].trim_ascii_end();
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    let is_tab = text[..end].eq_ignore_ascii_case(b"sep=\t");
    match line {
        [s, e, p, b'=', rest @ ..] if [*s, *e, *p].eq_ignore_ascii_case(b"sep") && (rest.len() == 1 || is_tab) => {
            let byte = rest.first().copied().unwrap_or(b'\t');
            let n_ends = if text[end..].starts_with(b"\r\n") { 2 } else { 1 };
            (Some(Delimiter::Byte(byte)), (end + n_ends).min(text.len()))
        }
        _ => (None, 0),
    }
}

/// The first whole lines.
fn sample(text: &[u8]) -> &[u8] {
    if text.len() <= SAMPLE_BYTES {
        return text;
    }
    let head = &text[..SAMPLE_BYTES];
    let end = head.iter().rposition(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(head.len());
    &head[..end]
}

fn commas_are_decimal(sample: &[u8]) -> bool {
    let is_digit = |at: Option<usize>| at.and_then(|at| sample.get(at)).is_some_and(u8::is_ascii_digit);
    (0..sample.len()).filter(|at| sample[*at] == b',').all(|at| is_digit(at.checked_sub(1)) && is_digit(Some(at + 1)))
}

/// How well a delimiter fits: every row should have as many fields as the header.
#[derive(Clone, Copy)]
struct Fit {
    delimiter: Delimiter,
    n_fields: usize,
    n_titles: usize,
    n_trailing: usize,
    has_row_names: bool,
    header_fits: bool,
    /// Of 1000 rows, those with the usual number of fields.
    share: usize,
}

impl Fit {
    /// `None` if the usual number of fields is one.
    fn of(sample: &[u8], delimiter: Delimiter) -> Option<Self> {
        let lines = lines(sample, delimiter);
        let counts: Vec<usize> = lines.iter().map(|line| line.n_fields).collect();
        let usual = |n: usize| counts.iter().filter(|count| **count == n).count();
        let n_fields = counts.iter().skip(1).chain(counts.first()).copied().max_by_key(|n| (usual(*n), *n))?;
        if n_fields < 2 {
            return None;
        }
        let has_row_names = has_row_names(&lines);
        // A comment right above the data may be the header.
        let is_header = |at: usize| counts[at] == n_fields && lines.get(at + 1).is_some_and(|next| next.has_number);
        let is_title = |at: &usize| counts[*at] == 1 || lines[*at].is_comment() && !is_header(*at);
        let n_titles = (0..lines.len()).take_while(is_title).count();
        let n_titles = if n_titles <= MAX_TITLES && n_titles < counts.len() && !has_row_names { n_titles } else { 0 };
        let (header, rows) = (counts[n_titles], &counts[n_titles + 1..]);
        let header_fits = header == n_fields || has_row_names;
        let has_trailing = !has_row_names && rows.iter().all(|n| *n == n_fields);
        let n_trailing = if has_trailing { n_fields.saturating_sub(header) } else { 0 };
        let n_usual = usual(n_fields) + usize::from(has_row_names);
        let share = n_usual * 1000 / (counts.len() - n_titles);
        let n_titles = if header_fits { n_titles } else { 0 };
        Some(Self { delimiter, n_fields, n_titles, n_trailing, has_row_names, header_fits, share })
    }

    fn rank(&self) -> (bool, bool, usize, usize, usize) {
        let place = CANDIDATES.iter().position(|byte| self.delimiter == Delimiter::Byte(*byte)).unwrap_or(0);
        (self.header_fits, self.n_titles == 0, self.share, self.n_fields, CANDIDATES.len() - place)
    }

    fn is_whole(&self) -> bool {
        self.header_fits && self.share == 1000
    }
}

/// What the first cells of a line tell.
struct Line {
    n_fields: usize,
    first: Vec<u8>,
    /// The first cell stands in quotes.
    is_quoted: bool,
    /// A cell behind the first begins with a blank, as a comma in prose makes it.
    has_blank: bool,
    has_number: bool,
    /// Every cell behind the first is a number or missing.
    has_numbers: bool,
    /// The last cell is empty, as a delimiter at the end of every line makes it.
    ends_empty: bool,
}

impl Line {
    fn of(mut fields: impl Iterator<Item = impl AsRef<[u8]>>, is_quoted: bool) -> Option<Self> {
        let first = fields.next()?.as_ref().to_vec();
        let is_number = |field: &[u8]| std::str::from_utf8(field).is_ok_and(|text| number(text, true).is_some());
        let has_number = is_number(&first);
        let mut line =
            Self { n_fields: 1, first, is_quoted, has_blank: false, has_number, has_numbers: true, ends_empty: false };
        for field in fields {
            let field = field.as_ref();
            line.n_fields += 1;
            line.has_blank |= field.starts_with(b" ");
            line.has_number |= is_number(field);
            line.has_numbers &= is_number(field) || std::str::from_utf8(field).is_ok_and(is_missing);
            line.ends_empty = field.is_empty();
        }
        Some(line)
    }

    fn is_comment(&self) -> bool {
        self.first.starts_with(b"#")
    }
}

/// The first lines of `sample` that are not blank.
fn lines(sample: &[u8], delimiter: Delimiter) -> Vec<Line> {
    let is_quote = |at: usize| sample.get(at) == Some(&b'"');
    match delimiter {
        Delimiter::Byte(delimiter) => {
            let has_escapes = has_escapes(sample, Delimiter::Byte(delimiter));
            let mut reader = ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .delimiter(delimiter)
                .escape(has_escapes.then_some(b'\\'))
                .double_quote(!has_escapes)
                .from_reader(sample);
            let mut record = ByteRecord::new();
            let mut lines = Vec::new();
            while lines.len() < SAMPLE_ROWS && reader.read_byte_record(&mut record).unwrap_or(false) {
                let start = record.position().map_or(0, |position| position.byte() as usize);
                let start = start + sample[start..].iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
                lines.extend(Line::of(record.iter(), is_quote(start)));
            }
            lines
        }
        Delimiter::Blanks => {
            let lines = sample.split(|byte| matches!(byte, b'\n' | b'\r'));
            let line = |line: &[u8]| match line.trim_ascii_start() {
                comment @ [b'#', ..] => {
                    let fields = Line::of(blank_header(comment), false)?;
                    Some(Line { first: b"#".to_vec(), ..fields })
                }
                line => Line::of(blank_fields(line), line.starts_with(b"\"")),
            };
            lines.filter_map(line).take(SAMPLE_ROWS).collect()
        }
    }
}

/// Whether every row begins with a name that the header has no cell for, as R's `write.table` writes a table. A delimiter
/// in unquoted prose gives rows a cell too many, too. So the names differ from row to row, and they are numbers, or names of
/// images before numbers alone, or stand in quotes under a header in quotes.
fn has_row_names(lines: &[Line]) -> bool {
    let Some((header, rows)) = lines.split_first() else { return false };
    let is_shifted = |row: &Line| row.n_fields == header.n_fields + 1 && !row.first.is_empty() && !row.has_blank;
    let names: HashSet<&[u8]> = rows.iter().map(|row| row.first.as_slice()).collect();
    if !rows.iter().all(is_shifted) || rows.iter().all(|row| row.ends_empty) || names.len() < rows.len() {
        return false;
    }
    let is_number = |row: &Line| row.first.iter().all(u8::is_ascii_digit);
    let is_image = |row: &Line| row.has_numbers && names_image(&String::from_utf8_lossy(&row.first));
    rows.iter().all(is_number)
        || rows.iter().all(is_image)
        || (header.n_fields > 1 && header.is_quoted && rows.iter().all(|row| row.is_quoted))
}

/// The fields of a line between blanks. A field in quotes may hold blanks, and quotes that are doubled or follow a
/// backslash, as R writes them.
pub(crate) fn blank_fields(line: &[u8]) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = rest.trim_ascii_start();
        let first = *rest.first()?;
        if let Some((field, after)) = (first == b'"').then(|| quoted(&rest[1..])).flatten() {
            rest = after;
            return Some(field);
        }
        let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
        let (field, after) = rest.split_at(end);
        rest = after;
        Some(field.into())
    })
}

/// The field whose content begins `bytes`, behind its opening quote, and what follows its closing quote. `None` if the
/// quote is not closed before a blank.
fn quoted(bytes: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let (mut at, mut marks) = (0, Vec::new());
    loop {
        match bytes.get(at..)? {
            [b'\\' | b'"', b'"', ..] => {
                marks.push(at);
                at += 2;
            }
            [b'"', after @ ..] if after.first().is_none_or(u8::is_ascii_whitespace) => {
                let kept = || bytes[..at].iter().enumerate().filter(|(i, _)| marks.binary_search(i).is_err());
                let field = if marks.is_empty() { bytes[..at].into() } else { kept().map(|(_, byte)| *byte).collect() };
                return Some((field, after));
            }
            [b'"', ..] | [] => return None,
            _ => at += 1,
        }
    }
}

/// The fields of a header between blanks, without the `#` of a header that is a comment.
pub(crate) fn blank_header(line: &[u8]) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let line = line.trim_ascii_start();
    blank_fields(line.strip_prefix(b"# ").unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delimiter(text: &str) -> Delimiter {
        of(text.as_bytes(), None).delimiter
    }

    #[test]
    fn delimiters_are_told_by_the_fields_that_they_give() {
        for (text, byte) in [
            ("name,mos\na.png,1\n", b','),
            ("name;mos\na.png;1,5\nb.png;2,25\n", b';'),
            ("a.png;1,5\nb.png;2,25\n", b';'),
            ("name\tprompt\tmos\na\tone, two\t1\nb\tx, y, z\t2\n", b'\t'),
            ("name,prompt,mos\na,x;y;z;w,1\nb,q,2\n", b','),
            ("a,b\n1,2\n1,2,3\n", b','),
            ("name|mos\na|1\n", b'|'),
            ("sep=;\nname;mos\n", b';'),
            ("name,mos,prompt\na.png,1,two, dogs\nb.jpg,2,red, cat\n", b','),
            ("name,prompt,mos\na,\"the \\\"red\\\" cat, big\",1\nb,\"the \\\"red\\\" cat, big\",2\n", b','),
            ("name\nmy picture.png\nother.png\n", b','),
            ("A0001_00_00.bmp, 1520.0648\nA0001_00_01.bmp, 1437.0798\n", b','),
        ] {
            assert_eq!(delimiter(text), Delimiter::Byte(byte), "{text:?}");
        }
        assert_eq!(delimiter("5.40000 I01_01_1.bmp\r\n5.3 I01_01_2.bmp\r\n"), Delimiter::Blanks);
        assert_eq!(delimiter("name   mos\n\"a b.png\"  3\n c.png 4\n"), Delimiter::Blanks);
    }

    #[test]
    fn a_title_above_the_header_is_skipped() {
        let dialect = of(b"Pilot study 2024\n\nname,mos\na,1\nb,2\n", None);
        assert_eq!((dialect.delimiter, dialect.n_titles), (Delimiter::Byte(b','), 1));
        assert_eq!(of(b"a,b\n1\n", None).n_titles, 0);
    }

    #[test]
    fn rows_that_begin_with_a_name_of_their_own_are_told_from_rows_with_a_delimiter_in_prose() {
        for text in [
            "\"name\" \"mos\"\n\"1\" \"a.png\" 1.5\n\"2\" \"b c.png\" 2\n",
            "name,mos\n3,a.png,1.5\n1,b.png,NA\n",
            "mos sd\na.png 1.5 0.1\nb.png 2 NA\n",
            "mos\na.png 1.5\nb.png 2\n",
            "\"mos\",\"kind\"\n\"first\",1.5,\"x\"\n\"second\",2,\"y\"\n",
            "    name  mos\n0  a.png  1.5\n1  b.png  2.0\n",
        ] {
            assert!(of(text.as_bytes(), None).has_row_names, "{text}");
        }
        for text in [
            "name,mos,prompt\na.png,1,two, dogs\nb.png,2,red, cat\n",
            "name,mos,prompt\na.png,1,two,dogs\nb.png,2,red,cat\n",
            "id,mos,prompt\n1,1,two, dogs\n2,2,red, cat\n",
            "score,mos\n1,2,3\n1,2,4\n",
            "name,mos\na,1,\nb,2,\n",
            "name,mos\na,1\nb,2\n",
        ] {
            assert!(!of(text.as_bytes(), None).has_row_names, "{text}");
        }
    }

    #[test]
    fn comments_above_the_header_are_titles_and_a_header_may_be_a_comment() {
        let dialect = of(b"# ratings, of 2024\n# by us\nname,mos,sd\na,1,2\nb,2,3\n", None);
        assert_eq!((dialect.delimiter, dialect.n_titles), (Delimiter::Byte(b','), 2));
        let dialect = of(b"# name mos\na.png 1\nb.png 2\n", None);
        assert_eq!((dialect.delimiter, dialect.n_titles), (Delimiter::Blanks, 0));
        assert_eq!(of(b"#,mos\n1,2\n2,3\n", None).n_titles, 0);
        assert_eq!(of(b"# by us, in 2024\n# and others, too\nname,mos\na,1\n", None).n_titles, 2);
    }

    #[test]
    fn quotes_between_blanks_are_closed_before_a_blank() {
        let fields = |line: &str| -> Vec<String> {
            blank_fields(line.as_bytes()).map(|field| String::from_utf8_lossy(&field).into_owned()).collect()
        };
        assert_eq!(fields(r#" "a b" "" "the \"red\" cat" "x ""y"" z" "#), ["a b", "", "the \"red\" cat", "x \"y\" z"]);
        assert_eq!(fields(r#""a"b "open"#), ["\"a\"b", "\"open"]);
    }

    #[test]
    fn a_backslash_before_a_quote_is_told_from_one_at_the_end_of_a_folder() {
        assert!(of(b"a,b\n1,\"the \\\"red\\\" cat, big\"\n", None).has_escapes);
        assert!(!of(b"a,b\n1,\"C:\\pics\\\"\n\"C:\\\",2\n", None).has_escapes);
        assert!(!of(b"a,b\n1,\"the \"\"red\"\" cat\"\n", None).has_escapes);
    }
}
