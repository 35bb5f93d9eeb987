//! SQL over the tables of a store, by polars.
//!
//! Every table has its name (`images`, `predictions`, `metrics`, …), and its parts are united: partition columns are text
//! columns like any other, and a column that a part lacks is null there. Only the tables that a query names are opened.
//! A local store is scanned lazily, so that a query reads the columns it uses. Other stores hand over the parts' bytes.
//!
//! [`ask`] parses the statement, opens its tables and has polars answer; [`Answer::write`] prints what came out.

use agiqa_store::store::part::PartError;
use agiqa_store::store::{Store, StoreError};
use polars::prelude::*;
use polars::sql::SQLContext;

mod statement;

mod names;

mod catalog;

mod parts;

mod scan;

mod records;

mod unknown;

mod answer;

mod cell;

pub use answer::{Answer, Format, WriteError};

use catalog::Opened;
use statement::Statement;

/// A query that has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The text is not SQL.
    #[error("cannot read the query: {problem}")]
    Syntax {
        /// What was expected, what was found, and where.
        problem: String,
    },
    /// The text holds no statement, or several.
    #[error("expected one statement, found {n_statements}: ask one at a time")]
    NotOne {
        /// Number of statements.
        n_statements: usize,
    },
    /// The statement would change something.
    #[error(
        "a query only reads, and `{statement}` does not: expected SELECT, WITH … SELECT, SHOW TABLES, DESCRIBE <table> or \
         EXPLAIN SELECT"
    )]
    NotAQuestion {
        /// First word of the statement.
        statement: String,
    },
    /// A table's name has several parts.
    #[error("`{name}`: a table's name is one word, as in `SELECT count(*) FROM images`")]
    QualifiedTable {
        /// The name as given.
        name: String,
    },
    /// A query of WITH has the name of a table. Polars would read the table instead.
    #[error("`WITH {name} AS …` hides the table `{name}`: choose another name for it")]
    HiddenTable {
        /// The name.
        name: String,
    },
    /// There is no such table.
    #[error("no table `{name}`{hint} {available}")]
    UnknownTable {
        /// The name as given.
        name: String,
        /// `; did you mean …?` or `;`.
        hint: String,
        /// The tables that the store has.
        available: String,
    },
    /// A table of the query has no such column.
    #[error("{problem}{advice}{hint} {available}")]
    UnknownColumn {
        /// Which table lacks which column.
        problem: String,
        /// `; did you mean …?` or `;`.
        hint: String,
        /// The columns that there are.
        available: String,
        /// What quotes mean, if the name was in double ones.
        advice: String,
    },
    /// The parts of a table do not fit together.
    #[error(
        "column `{column}` of table `{table}` is {first} but {other}: there is no type for both; rerun the stage that \
         wrote the older part"
    )]
    Types {
        /// The table.
        table: &'static str,
        /// The column.
        column: String,
        /// Its type in one part, and that part.
        first: String,
        /// Its type in another part, and that part.
        other: String,
    },
    /// A part cannot be read.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Polars cannot answer.
    #[error("the query failed")]
    Failed {
        /// Cause.
        source: PolarsError,
    },
}

/// Answers `sql` from the tables of `store`.
///
/// # Errors
/// Text that is not SQL, a statement that does not only read, a table or column that does not exist, parts that cannot be
/// read or do not fit together, and whatever polars cannot compute.
pub fn ask(store: &Store, sql: &str) -> Result<Answer, QueryError> {
    let names = match statement::parse(sql)? {
        Statement::ShowTables => return Ok(Answer::new(catalog::show_tables(store)?, Vec::new())),
        Statement::Describe(table) => return catalog::describe(store, &table),
        Statement::Query(names) => names,
    };
    if let Some(name) = names.with().find(|name| catalog::is_table(name)) {
        return Err(QueryError::HiddenTable { name: name.to_owned() });
    }
    let tables = names.tables().map(|name| catalog::open(store, name)).collect::<Result<Vec<Opened>, QueryError>>()?;
    let mut context = SQLContext::new();
    for table in &tables {
        context.register(&table.name, table.frame.clone());
    }
    let frame = context.execute(sql).and_then(LazyFrame::collect);
    let frame = frame.map_err(|error| unknown::explained(error, &names, &tables))?;
    Ok(Answer::new(frame, tables.into_iter().filter_map(|table| table.note).collect()))
}

/// What went wrong in polars, without the plan that it was found in.
pub(crate) fn failed(error: PolarsError) -> QueryError {
    match error {
        PolarsError::Context { error, .. } | PolarsError::ExprContext { error, .. } => failed(*error),
        source => QueryError::Failed { source: source.wrap_msg(without_plan) },
    }
}

/// What polars says, on one line and without the plan that it appends to some of its messages.
fn without_plan(message: &str) -> String {
    let message = message.split("Resolved plan until failure").next().unwrap_or(message);
    message.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use agiqa_store::identity::ImageId;
    use agiqa_store::store::OpenMode;
    use agiqa_store::tables::splits::{self, Part, SplitRow};

    use super::*;

    /// A store without a folder, like a bucket: polars gets the parts' bytes.
    fn bucket() -> Store {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let absent = folder.path().join("absent").display().to_string();
        Store::open(&absent, OpenMode::AbsentIsEmpty).expect("a store in memory")
    }

    #[test]
    fn a_store_that_is_no_folder_is_asked_alike() {
        let store = bucket();
        for (dataset, n_images) in [("a", 3_u32), ("b", 2)] {
            let row = |i: u32| SplitRow {
                image_id: ImageId::of_bytes(&i.to_le_bytes()),
                seed: None,
                fold: 0,
                part: if i == 0 { Part::Test } else { Part::Train },
            };
            let name = dataset.parse().expect("a valid name");
            let rows: Vec<SplitRow> = (0..n_images).map(row).collect();
            splits::write(&store, &name, &name, &rows).expect("memory takes everything");
        }
        let sql = "SELECT dataset, split, count(*) AS n FROM splits WHERE part = 'train' AND dataset <> 'c' \
                   GROUP BY dataset, split ORDER BY n";
        let answer = ask(&store, sql).expect("an answer");
        let mut text = Vec::new();
        answer.write(Format::Csv, &mut text).expect("memory takes everything");
        assert_eq!(String::from_utf8_lossy(&text), "dataset,split,n\nb,b,1\na,a,2\n");
    }

    #[test]
    fn what_polars_says_is_on_one_line_and_without_its_plan() {
        let message = "not found: \"a\"\n\nDid you mean \"b\"?\n\nResolved plan until failure:\n\n\tSELECT a";
        assert_eq!(without_plan(message), "not found: \"a\" Did you mean \"b\"?");
    }

    #[test]
    fn an_error_of_polars_is_the_cause_and_not_repeated() {
        let error = ask(&bucket(), "SELECT no_such_function(1)").expect_err("there is no such function");
        assert_eq!(error.to_string(), "the query failed");
        assert!(std::error::Error::source(&error).is_some_and(|cause| cause.to_string().contains("no_such_function")));
    }
}
