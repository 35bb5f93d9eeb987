//! What a text asks: one statement that only reads.

use sqlparser::ast::{Query, SetExpr, Statement as Ast};
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::{Parser, ParserError, ParserOptions};

use crate::QueryError;
use crate::names::{self, Names};

/// A statement that can be answered.
pub(crate) enum Statement {
    /// `SHOW TABLES`.
    ShowTables,
    /// `DESCRIBE table`.
    Describe(String),
    /// `SELECT …`, `WITH … SELECT …` or `EXPLAIN SELECT …`, and what it names.
    Query(Names),
}

/// Parses `sql` in the dialect and with the options of polars' own parser.
pub(crate) fn parse(sql: &str) -> Result<Statement, QueryError> {
    let options = ParserOptions { trailing_commas: true, ..ParserOptions::default() };
    let parser = Parser::new(&GenericDialect).with_options(options);
    let statements = parser.try_with_sql(sql).and_then(|mut parser| parser.parse_statements()).map_err(syntax)?;
    let [statement] = statements.as_slice() else {
        return Err(QueryError::NotOne { n_statements: statements.len() });
    };
    match statement {
        Ast::ShowTables { .. } => Ok(Statement::ShowTables),
        Ast::ExplainTable { table_name, .. } => Ok(Statement::Describe(names::table_of(table_name)?)),
        Ast::Query(query) => only_reads(query).and_then(|()| Ok(Statement::Query(Names::of(statement)?))),
        Ast::Explain { statement: explained, .. } => match &**explained {
            Ast::Query(query) => only_reads(query).and_then(|()| Ok(Statement::Query(Names::of(statement)?))),
            other => Err(refused(&first_word(&other.to_string()))),
        },
        _ => Err(refused(&first_word(sql))),
    }
}

fn syntax(error: ParserError) -> QueryError {
    let problem = match error {
        ParserError::TokenizerError(problem) | ParserError::ParserError(problem) => problem,
        ParserError::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
    };
    QueryError::Syntax { problem }
}

fn refused(statement: &str) -> QueryError {
    QueryError::NotAQuestion { statement: statement.to_owned() }
}

fn first_word(sql: &str) -> String {
    sql.split_whitespace().next().unwrap_or_default().to_uppercase()
}

/// Refuses what changes something in a place where a SELECT may stand.
fn only_reads(query: &Query) -> Result<(), QueryError> {
    for defined in query.with.iter().flat_map(|with| &with.cte_tables) {
        only_reads(&defined.query)?;
    }
    body_only_reads(&query.body)
}

fn body_only_reads(body: &SetExpr) -> Result<(), QueryError> {
    match body {
        SetExpr::Select(select) if select.into.is_some() => Err(refused("SELECT … INTO")),
        SetExpr::Select(_) | SetExpr::Values(_) | SetExpr::Table(_) => Ok(()),
        SetExpr::Query(query) => only_reads(query),
        SetExpr::SetOperation { left, right, .. } => body_only_reads(left).and_then(|()| body_only_reads(right)),
        SetExpr::Insert(_) => Err(refused("INSERT")),
        SetExpr::Update(_) => Err(refused("UPDATE")),
        SetExpr::Delete(_) => Err(refused("DELETE")),
        SetExpr::Merge(_) => Err(refused("MERGE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(sql: &str) -> String {
        parse(sql).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_does_not_only_read_is_refused() {
        for (sql, word) in [
            ("drop table images", "`DROP`"),
            ("DELETE FROM images", "`DELETE`"),
            ("create table t as select 1", "`CREATE`"),
            ("INSERT INTO images VALUES (1)", "`INSERT`"),
            ("EXPLAIN DELETE FROM images", "`DELETE`"),
            ("SELECT * INTO t FROM images", "`SELECT … INTO`"),
        ] {
            let refused = refusal(sql);
            assert!(refused.contains("a query only reads") && refused.contains(word), "{sql}: {refused}");
        }
    }

    #[test]
    fn one_statement_is_asked_at_a_time() {
        assert!(refusal("SELECT 1; SELECT 2").contains("found 2"));
        assert!(refusal("").contains("found 0"));
        assert!(parse("SELECT 1;").is_ok());
        assert!(refusal("SELECT 1 FROM").contains("cannot read the query"));
    }

    #[test]
    fn tables_are_shown_and_described() {
        assert!(matches!(parse("show tables"), Ok(Statement::ShowTables)));
        for sql in ["DESCRIBE images", "desc images"] {
            assert!(matches!(parse(sql), Ok(Statement::Describe(table)) if table == "images"), "{sql}");
        }
    }
}
