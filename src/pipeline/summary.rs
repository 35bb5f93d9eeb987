//! The places of a pipeline's tables, and example queries.

use std::fmt;

use serde::Serialize;

use agiqa_store::store::{Store, StoreError};

/// Tables that people query, in the order of the data. The rest of a store is for programs.
const TABLES: &[&str] = &[
    "images",
    "rejects",
    "splits",
    "features",
    "train_log",
    "scores",
    "gates",
    "metrics",
    "comparison",
    "experiments",
];

/// The tables of a store. In JSON, they are an event of type `tables`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "tables")]
pub struct Tables {
    /// URL of the store.
    pub store: String,
    /// The tables that the store has.
    pub tables: Vec<TablePlace>,
}

/// The place of one table.
#[derive(Clone, Debug, Serialize)]
pub struct TablePlace {
    /// Its name.
    pub table: &'static str,
    /// Pattern of its files, for DuckDB and Polars.
    pub files: String,
    /// Number of files.
    pub n_files: usize,
    /// Total size of the files.
    pub n_bytes: u64,
}

/// The tables that `store` has.
///
/// # Errors
/// The store cannot be listed.
pub fn tables(store: &Store) -> Result<Tables, StoreError> {
    let mut tables = Vec::new();
    for table in TABLES {
        let mut files = store.list(table)?;
        files.retain(|file| file.path.ends_with(".parquet"));
        if !files.is_empty() {
            tables.push(TablePlace {
                table,
                files: format!("{}/{table}/**/*.parquet", store.url()),
                n_files: files.len(),
                n_bytes: files.iter().map(|file| file.n_bytes).sum(),
            });
        }
    }
    Ok(Tables { store: store.url().to_owned(), tables })
}

impl Tables {
    fn files(&self, name: &str) -> Option<&str> {
        self.tables.iter().find(|place| place.table == name).map(|place| place.files.as_str())
    }
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "tables")?;
        let width = self.tables.iter().map(|place| place.files.len()).max().unwrap_or(0);
        for TablePlace { table, files, n_files, n_bytes } in &self.tables {
            let plural = if *n_files == 1 { "" } else { "s" };
            writeln!(f, "  {table:<11}  {files:<width$}  {n_files} file{plural}, {}", size(*n_bytes))?;
        }
        let (Some(metrics), Some(scores)) = (self.files("metrics"), self.files("scores")) else {
            return Ok(());
        };
        writeln!(
            f,
            "\nto read these tables:\n  agiqa query --store {store} \"SELECT run, predictor, statistic, n, srcc, plcc FROM metrics \
             WHERE part = 'test' AND subset = 'all' ORDER BY ALL\"\n\
             or with DuckDB:\n  duckdb -c \"SELECT run, predictor, statistic, n, srcc, plcc FROM \
             read_parquet('{metrics}', hive_partitioning=true) WHERE part='test' AND subset='all' ORDER BY ALL\"\n\
             or with Polars:\n  python3 -c \"import polars as pl; \
             print(pl.read_parquet('{scores}', hive_partitioning=True).sort('score')\
             .select('scorer', 'image_id', 'score', 'direction'))\"",
            store = self.store
        )
    }
}

fn size(n_bytes: u64) -> String {
    match n_bytes {
        0..10_000 => format!("{n_bytes} B"),
        10_000..10_000_000 => format!("{:.0} kB", n_bytes as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.0} MB", n_bytes as f64 / 1e6),
        10_000_000_000.. => format!("{:.0} GB", n_bytes as f64 / 1e9),
    }
}
