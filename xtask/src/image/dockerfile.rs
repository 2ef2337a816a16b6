//! What the last stage of a Dockerfile says, as far as ours does.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

/// An image of one file.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Dockerfile {
    /// Where the file lies in the image.
    pub(super) file: String,
    pub(super) entrypoint: Vec<String>,
    pub(super) command: Vec<String>,
    pub(super) ports: Vec<String>,
    pub(super) labels: BTreeMap<String, String>,
}

impl Dockerfile {
    /// Reads the last stage, which must be from nothing.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let start = text.rfind("\nFROM ").context("the Dockerfile has no stage")?;
        let mut lines = text[start..].lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        if lines.next() != Some("FROM scratch") {
            bail!("the last stage of the Dockerfile is not from scratch: an image needs an engine then");
        }
        let mut this = Self::default();
        for line in lines {
            let (instruction, rest) = line.split_once(' ').context("an instruction without arguments")?;
            match instruction {
                "COPY" => this.file = rest.rsplit(' ').next().unwrap_or_default().to_owned(),
                "ENTRYPOINT" => this.entrypoint = serde_json::from_str(rest)?,
                "CMD" => this.command = serde_json::from_str(rest)?,
                "EXPOSE" => this.ports.push(format!("{rest}/tcp")),
                "LABEL" => {
                    let (name, value) = rest.split_once('=').context("a label without a value")?;
                    this.labels.insert(name.to_owned(), serde_json::from_str(value)?);
                }
                other => bail!(
                    "the last stage of the Dockerfile has {other}, which `cargo xtask image` does not know"
                ),
            }
        }
        if !this.file.starts_with('/') {
            bail!("the last stage of the Dockerfile copies no file to an absolute path");
        }
        Ok(this)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_understood() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/Dockerfile");
        let image = Dockerfile::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(
            (image.file.as_str(), &image.entrypoint[..]),
            ("/podmeter", &["/podmeter".to_owned()][..])
        );
        assert_eq!(
            (&image.command[..], &image.ports[..]),
            (&["agent".to_owned()][..], &["9690/tcp".to_owned()][..])
        );
        assert_eq!(image.labels["org.opencontainers.image.licenses"], "Apache-2.0");
    }

    #[test]
    fn what_it_does_not_know_is_an_error() {
        let parse = |text: &str| Dockerfile::parse(text).unwrap_err().to_string();
        assert!(parse("#\nFROM alpine\nCOPY a /a").contains("not from scratch"));
        assert!(parse("#\nFROM scratch\nCOPY a /a\nUSER 1").contains("USER"));
        assert!(parse("#\nFROM scratch\nCMD [\"a\"]").contains("absolute path"));
    }
}
