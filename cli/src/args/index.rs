//! Arguments that name a shared index.

use clap::Args;

use super::values;
use crate::index_url::{self, IndexUrl};
use crate::ui::failure::Failure;

/// Schema of the tables unless another one is named.
const SCHEMA: &str = "cenotaph";

/// Locations of the shared index of the store, and of that of its source.
#[derive(Clone, Debug, Args)]
pub(crate) struct IndexArgs {
    /// Database that holds the index of a shared store: postgres://USER:PASSWORD@HOST/DATABASE.
    /// Better given by the environment variable CENOTAPH_INDEX; see below.
    #[arg(long, global = true, value_name = "URL", value_parser = values::index_url)]
    pub(crate) index: Option<IndexUrl>,
    /// Schema of the tables of the shared index.
    #[arg(long, global = true, value_name = "NAME", default_value = SCHEMA)]
    pub(crate) index_schema: String,
    /// Database that holds the index of the store cenotaph:DIR of --fallback or `migrate --from`, as
    /// for --index. Better given by CENOTAPH_FROM_INDEX.
    #[arg(long, global = true, value_name = "URL", value_parser = values::index_url)]
    pub(crate) from_index: Option<IndexUrl>,
    /// Schema of the tables of that index.
    #[arg(long, global = true, value_name = "NAME", default_value = SCHEMA)]
    pub(crate) from_index_schema: String,
}

impl Default for IndexArgs {
    fn default() -> Self {
        Self {
            index: None,
            index_schema: SCHEMA.to_owned(),
            from_index: None,
            from_index_schema: SCHEMA.to_owned(),
        }
    }
}

impl IndexArgs {
    /// Completes the arguments by the environment, and checks them.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the URL of the index is not one of this build.
    pub(crate) fn complete(mut self) -> Result<Self, Failure> {
        self.index = index_url::or_environment(self.index, index_url::VARIABLE)?;
        if let Some(url) = &self.index {
            url.check("--index")?;
        }
        Ok(self)
    }

    /// Returns the arguments of the store that is the source of this one.
    ///
    /// # Errors
    /// As [`complete`](Self::complete).
    pub(crate) fn of_source(&self) -> Result<Self, Failure> {
        let given = self.from_index.clone();
        let index = index_url::or_environment(given, index_url::FROM_VARIABLE)?;
        if let Some(url) = &index {
            url.check("--from-index")?;
        }
        Ok(Self {
            index,
            index_schema: self.from_index_schema.clone(),
            ..Self::default()
        })
    }

    /// Returns whether the index of the store is shared.
    pub(crate) fn is_shared(&self) -> bool {
        self.index.is_some()
    }
}
