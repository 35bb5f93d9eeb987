//! What a statement names: tables, which are opened for it, and columns, of which the misspelt one is found.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, Ident, JoinConstraint, JoinOperator, ObjectName, Query, Select, SelectItem, SetExpr, Statement, TableAlias,
    TableFactor, Visit, Visitor,
};

use crate::QueryError;

/// A column as a query writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnName {
    /// The name before the point, if any: a table or another name of a table.
    pub(crate) qualifier: Option<String>,
    /// The name.
    pub(crate) name: String,
    /// Whether it stands in double quotes.
    pub(crate) is_quoted: bool,
}

/// The names of one statement.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Names in FROM, JOIN and TABLE, each once, in the order of the text.
    from: Vec<String>,
    /// Names that WITH gives to its queries.
    with: HashSet<String>,
    /// Other names of tables: `i` of `images` for `FROM images i`. The name of a subquery has no table.
    aliases: HashMap<String, Option<String>>,
    /// Names that the statement itself gives to columns.
    defined: HashSet<String>,
    /// Columns, in the order of the text.
    columns: Vec<ColumnName>,
    /// A table's name that has several parts.
    qualified: Option<String>,
}

impl Names {
    /// The names of `statement`.
    pub(crate) fn of(statement: &Statement) -> Result<Self, QueryError> {
        let mut names = Self::default();
        // The visitor never breaks.
        let _ = statement.visit(&mut names);
        match names.qualified {
            Some(name) => Err(QueryError::QualifiedTable { name }),
            None => Ok(names),
        }
    }

    /// The tables that are read, without what WITH defines.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &str> {
        self.from.iter().map(String::as_str).filter(|name| !self.with.contains(*name))
    }

    /// Names that WITH gives to its queries.
    pub(crate) fn with(&self) -> impl Iterator<Item = &str> {
        self.with.iter().map(String::as_str)
    }

    /// The columns, in the order of the text.
    pub(crate) fn columns(&self) -> &[ColumnName] {
        &self.columns
    }

    /// Whether the statement itself gives a column the name `name`.
    pub(crate) fn defines(&self, name: &str) -> bool {
        self.defined.contains(name)
    }

    /// The table that `qualifier` stands for, unless it stands for a subquery or a query of WITH.
    pub(crate) fn table_called(&self, qualifier: &str) -> Option<&str> {
        match self.aliases.get(qualifier) {
            Some(table) => table.as_deref().filter(|table| !self.with.contains(*table)),
            None => self.tables().find(|table| *table == qualifier),
        }
    }

    fn read_from(&mut self, name: &str) {
        if !self.from.iter().any(|known| known == name) {
            self.from.push(name.to_owned());
        }
    }

    fn alias(&mut self, alias: Option<&TableAlias>, table: Option<&str>) {
        let Some(TableAlias { name, columns, .. }) = alias else { return };
        self.aliases.insert(name.value.clone(), table.map(str::to_owned));
        self.defined.extend(columns.iter().map(|column| column.name.value.clone()));
    }

    /// `TABLE images` stands where a SELECT may.
    fn read_from_body(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Table(table) => {
                if let Some(name) = &table.table_name {
                    self.read_from(name);
                }
            }
            SetExpr::SetOperation { left, right, .. } => {
                self.read_from_body(left);
                self.read_from_body(right);
            }
            _ => {}
        }
    }

    fn column(&mut self, qualifier: Option<&Ident>, name: &Ident) {
        self.columns.push(ColumnName {
            qualifier: qualifier.map(|qualifier| qualifier.value.clone()),
            name: name.value.clone(),
            is_quoted: name.quote_style == Some('"'),
        });
    }
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for defined in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.with.insert(defined.alias.name.value.clone());
            self.defined.extend(defined.alias.columns.iter().map(|column| column.name.value.clone()));
        }
        self.read_from_body(&query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        for item in &select.projection {
            match item {
                SelectItem::ExprWithAlias { alias, .. } => {
                    self.defined.insert(alias.value.clone());
                }
                SelectItem::ExprWithAliases { aliases, .. } => {
                    self.defined.extend(aliases.iter().map(|alias| alias.value.clone()));
                }
                SelectItem::UnnamedExpr(_) | SelectItem::QualifiedWildcard(..) | SelectItem::Wildcard(_) => {}
            }
        }
        let joins = select.from.iter().flat_map(|from| &from.joins);
        for name in joins.flat_map(|join| using(&join.join_operator)).flat_map(|name| &name.0) {
            if let Some(name) = name.as_ident() {
                self.column(None, name);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, alias, args: None, .. } => match table_of(name) {
                Ok(name) => {
                    self.read_from(&name);
                    self.alias(alias.as_ref(), Some(&name));
                }
                Err(_) => self.qualified = Some(name.to_string()),
            },
            // `read_csv('…')` and its like, which polars opens itself.
            TableFactor::Table { alias, .. }
            | TableFactor::Derived { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::NestedJoin { alias, .. } => self.alias(alias.as_ref(), None),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        match expression {
            Expr::Identifier(name) => self.column(None, name),
            Expr::CompoundIdentifier(parts) => {
                if let [qualifier, name, ..] = parts.as_slice() {
                    self.column(Some(qualifier), name);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// The columns of `USING (…)`, which are no expressions to a visitor.
fn using(operator: &JoinOperator) -> &[ObjectName] {
    use JoinOperator::{Anti, FullOuter, Inner, Join, Left, LeftAnti, LeftOuter, LeftSemi, Right, RightOuter, Semi};
    match operator {
        Join(JoinConstraint::Using(names))
        | Inner(JoinConstraint::Using(names))
        | Left(JoinConstraint::Using(names))
        | LeftOuter(JoinConstraint::Using(names))
        | Right(JoinConstraint::Using(names))
        | RightOuter(JoinConstraint::Using(names))
        | FullOuter(JoinConstraint::Using(names))
        | Semi(JoinConstraint::Using(names))
        | LeftSemi(JoinConstraint::Using(names))
        | Anti(JoinConstraint::Using(names))
        | LeftAnti(JoinConstraint::Using(names)) => names,
        _ => &[],
    }
}

/// The table that `name` names, which has one part.
pub(crate) fn table_of(name: &ObjectName) -> Result<String, QueryError> {
    match name.0.as_slice() {
        [part] => part.as_ident().map(|ident| ident.value.clone()),
        _ => None,
    }
    .ok_or_else(|| QueryError::QualifiedTable { name: name.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::{self, Statement as Parsed};

    fn names(sql: &str) -> Names {
        match statement::parse(sql) {
            Ok(Parsed::Query(names)) => names,
            _ => panic!("{sql} is a query"),
        }
    }

    fn tables(sql: &str) -> Vec<String> {
        names(sql).tables().map(str::to_owned).collect()
    }

    #[test]
    fn tables_are_found_wherever_they_stand_and_each_once() {
        let sql = "SELECT * FROM images i JOIN splits USING (image_id) WHERE mos > (SELECT avg(mos) FROM images) \
                   AND image_id IN (SELECT image_id FROM rejects) UNION ALL TABLE metrics";
        assert_eq!(tables(sql), ["metrics", "images", "splits", "rejects"]);
        assert_eq!(tables("SELECT 1"), [""; 0]);
    }

    #[test]
    fn neither_a_query_of_with_nor_a_function_is_a_table() {
        let sql =
            "WITH best AS (SELECT * FROM metrics) SELECT * FROM best JOIN read_csv('a.csv') c ON best.run = c.run";
        assert_eq!(tables(sql), ["metrics"]);
        assert_eq!(names(sql).table_called("best"), None);
    }

    #[test]
    fn qualifiers_lead_to_tables() {
        let names = names("SELECT i.mos, images.name FROM images i, images, (SELECT 1 AS one) AS derived");
        assert_eq!(names.table_called("i"), Some("images"));
        assert_eq!(names.table_called("images"), Some("images"));
        assert_eq!(names.table_called("derived"), None);
        assert!(names.defines("one"));
    }

    #[test]
    fn a_table_of_a_schema_is_refused() {
        let error = statement::parse("SELECT * FROM main.images").err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("`main.images`")));
    }
}
