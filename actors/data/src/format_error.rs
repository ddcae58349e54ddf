//! Why rows could not be handed to a function in the form it asks for, or taken from it.
//!
//! Entry type: [`FormatError`]. It names the column where it is one that does not fit.

use serde::{Deserialize, Serialize};

use crate::words::Known;

/// What does not fit between a batch and the types of a function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FormatError {
    /// There is no column of this name.
    #[error("there is no column {column}{}", Known::there_are(.column, .available))]
    MissingColumn {
        /// The column that was asked for.
        column: String,
        /// The columns that there are.
        available: Vec<String>,
    },
    /// A column has another type.
    #[error("column {column} is {found}, not {expected}")]
    WrongType {
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// A column has nulls where there is no place for any.
    #[error("column {column} has a null, where the type has none: fill or filter it, or use an `Option`")]
    Null {
        /// The column.
        column: String,
    },
    /// Two columns have different numbers of rows.
    #[error("column {column} has {rows} rows, where those before it have {expected}")]
    Length {
        /// The column.
        column: String,
        /// Its rows.
        rows: usize,
        /// The rows of the others.
        expected: usize,
    },
    /// A value of a column does not fit.
    #[error("column {column}: {cause}")]
    Column {
        /// The column.
        column: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Only rows would tell the columns of a type, and there are none.
    #[error("without rows, the columns of {type_name} are not known: {cause}")]
    NoRows {
        /// The type.
        type_name: String,
        /// Why the type does not tell.
        cause: String,
    },
    /// Rows of a type cannot be columns, or be made of them.
    #[error("rows of type {type_name}: {cause}")]
    Rows {
        /// The type.
        type_name: String,
        /// What is wrong.
        cause: String,
    },
}

impl FormatError {
    /// The column that does not fit, if it is one.
    #[must_use]
    pub fn column(&self) -> Option<&str> {
        match self {
            Self::MissingColumn { column, .. }
            | Self::WrongType { column, .. }
            | Self::Null { column }
            | Self::Length { column, .. }
            | Self::Column { column, .. } => Some(column),
            Self::NoRows { .. } | Self::Rows { .. } => None,
        }
    }
}
