//! What is kept from one run to the next, outside of the repository.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};

/// Where that is.
pub(crate) fn cache() -> Result<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(cache
        .or_else(home)
        .context("neither XDG_CACHE_HOME nor HOME says where to keep things")?
        .join("podmeter"))
}
