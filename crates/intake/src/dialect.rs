//! The delimiter of a text, told by the numbers of fields that each candidate gives.

use csv::{ByteRecord, ReaderBuilder};

use crate::Delimiter;

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
    /// Number of bytes of a leading line `sep=`.
    pub(crate) n_skipped: usize,
}

/// The dialect of `text`; a given `delimiter` is kept.
pub(crate) fn of(text: &[u8], delimiter: Option<Delimiter>) -> Dialect {
    let (named, n_skipped) = sep_line(text);
    let text = &text[n_skipped..];
    let sample = sample(text);
    if let Some(delimiter) = delimiter.or(named) {
        let (n_titles, n_trailing) = Fit::of(sample, delimiter).map_or((0, 0), |fit| (fit.n_titles, fit.n_trailing));
        return Dialect { delimiter, n_titles, n_trailing, n_skipped };
    }
    let fits: Vec<Fit> = CANDIDATES.iter().filter_map(|byte| Fit::of(sample, Delimiter::Byte(*byte))).collect();
    let mut best = fits.iter().max_by_key(|fit| fit.rank()).copied();
    if let Some(comma) = best.filter(|fit| fit.delimiter == Delimiter::Byte(b',')) {
        // `a.png;1,5`: every row has a comma, but each is a decimal mark.
        let rival = fits.iter().filter(|fit| fit.delimiter != comma.delimiter).max_by_key(|fit| fit.rank());
        best = rival.filter(|rival| rival.is_whole() && commas_are_decimal(sample)).or(Some(&comma)).copied();
    }
    if best.is_none_or(|fit| !fit.is_whole()) {
        let blanks = Fit::of(sample, Delimiter::Blanks).filter(Fit::is_whole);
        best = blanks.or(best);
    }
    let delimiter = best.map_or(Delimiter::Byte(b','), |fit| fit.delimiter);
    let (n_titles, n_trailing) = best.map_or((0, 0), |fit| (fit.n_titles, fit.n_trailing));
    Dialect { delimiter, n_titles, n_trailing, n_skipped }
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
    header_fits: bool,
    /// Of 1000 rows, those with the usual number of fields.
    share: usize,
}

impl Fit {
    /// `None` if the usual number of fields is one.
    fn of(sample: &[u8], delimiter: Delimiter) -> Option<Self> {
        let counts = match delimiter {
            Delimiter::Byte(delimiter) => {
                let mut reader =
                    ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(sample);
                let mut record = ByteRecord::new();
                let mut counts = Vec::new();
                while counts.len() < SAMPLE_ROWS && reader.read_byte_record(&mut record).unwrap_or(false) {
                    counts.push(record.len());
                }
                counts
            }
            Delimiter::Blanks => {
                let lines = sample.split(|byte| matches!(byte, b'\n' | b'\r'));
                lines.map(|line| blank_fields(line).count()).filter(|n| *n > 0).take(SAMPLE_ROWS).collect()
            }
        };
        let usual = |n: usize| counts.iter().filter(|count| **count == n).count();
        let n_fields = counts.iter().skip(1).chain(counts.first()).copied().max_by_key(|n| (usual(*n), *n))?;
        if n_fields < 2 {
            return None;
        }
        let n_titles = counts.iter().take_while(|count| **count == 1).count();
        let n_titles = if n_titles <= MAX_TITLES && n_titles < counts.len() { n_titles } else { 0 };
        let (header, rows) = (counts[n_titles], &counts[n_titles + 1..]);
        let header_fits = header == n_fields;
        let n_trailing = if rows.iter().all(|n| *n == n_fields) { n_fields.saturating_sub(header) } else { 0 };
        let share = usual(n_fields) * 1000 / (counts.len() - n_titles);
        let n_titles = if header_fits { n_titles } else { 0 };
        Some(Self { delimiter, n_fields, n_titles, n_trailing, header_fits, share })
    }

    fn rank(&self) -> (bool, bool, usize, usize, usize) {
        let place = CANDIDATES.iter().position(|byte| self.delimiter == Delimiter::Byte(*byte)).unwrap_or(0);
        (self.header_fits, self.n_titles == 0, self.share, self.n_fields, CANDIDATES.len() - place)
    }

    fn is_whole(&self) -> bool {
        self.header_fits && self.share == 1000
    }
}

/// The fields of a line between blanks. A field in quotes may hold blanks.
pub(crate) fn blank_fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = rest.trim_ascii_start();
        let first = *rest.first()?;
        let is_end = |byte: &u8| byte.is_ascii_whitespace();
        let quoted =
            (first == b'"').then(|| rest[1..].iter().position(|byte| *byte == b'"').map(|end| end + 1)).flatten();
        if let Some(end) = quoted.filter(|end| rest.get(end + 1).is_none_or(is_end)) {
            let field = &rest[1..end];
            rest = &rest[end + 1..];
            return Some(field);
        }
        let end = rest.iter().position(is_end).unwrap_or(rest.len());
        let (field, after) = rest.split_at(end);
        rest = after;
        Some(field)
    })
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
}
