//! A tarball that is an OCI image layout and, by one file more, what `docker load` takes. The same input gives the same bytes.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::dockerfile::Dockerfile;

/// Builds the tarball in memory: it is little more than the binary.
pub(super) fn write(image: &Dockerfile, tag: &str, architecture: &str, content: &[u8]) -> Result<Vec<u8>> {
    let layer = tar([(image.file.trim_start_matches('/').to_owned(), content.to_vec(), 0o755)])?;
    let ports: serde_json::Map<_, _> = image.ports.iter().map(|port| (port.clone(), json!({}))).collect();
    let config = Blob::new(
        "application/vnd.oci.image.config.v1+json",
        serde_json::to_vec(&json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Entrypoint": image.entrypoint,
                "Cmd": image.command,
                "ExposedPorts": ports,
                "Labels": image.labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        }))?,
    );
    let layer = Blob::new("application/vnd.oci.image.layer.v1.tar", layer);
    let manifest = Blob::new(
        "application/vnd.oci.image.manifest.v1+json",
        serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor(),
            "layers": [layer.descriptor()],
        }))?,
    );
    let mut described = manifest.descriptor();
    // containerd takes the name from its own annotation, as a full reference; others from the tag alone.
    let full = if tag.contains('/') { tag.to_owned() } else { format!("docker.io/library/{tag}") };
    let name = tag.rsplit_once(':').map_or("latest", |(_, version)| version);
    described["annotations"] = json!({
        "io.containerd.image.name": full,
        "org.opencontainers.image.ref.name": name,
    });
    described["platform"] = json!({ "architecture": architecture, "os": "linux" });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [described],
    });
    let docker = json!([{ "Config": config.path(), "RepoTags": [tag], "Layers": [layer.path()] }]);
    let file =
        |name: &str, value: &Value| -> Result<_> { Ok((name.to_owned(), serde_json::to_vec(value)?, 0o644)) };
    tar([
        file("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?,
        file("index.json", &index)?,
        file("manifest.json", &docker)?,
        (config.path(), config.content, 0o644),
        (layer.path(), layer.content, 0o644),
        (manifest.path(), manifest.content, 0o644),
    ])
}

/// Something that is named by what it holds.
struct Blob {
    kind: &'static str,
    digest: String,
    content: Vec<u8>,
}

impl Blob {
    fn new(kind: &'static str, content: Vec<u8>) -> Self {
        Self { kind, digest: digest(&content), content }
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.kind, "digest": self.digest, "size": self.content.len() })
    }
}

fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A tarball of files of root's, without times.
fn tar(files: impl IntoIterator<Item = (String, Vec<u8>, u32)>) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder
            .append_data(&mut header, &path, &content[..])
            .with_context(|| format!("{path} in a tarball"))?;
    }
    builder.into_inner().context("the end of a tarball")
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, io::Read as _};

    use super::*;

    fn files(archive: &[u8]) -> HashMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let read = |mut entry: tar::Entry<'_, &[u8]>| {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        };
        archive.entries().unwrap().map(|entry| read(entry.unwrap())).collect()
    }

    #[test]
    fn each_reference_leads_to_what_it_names() {
        let image =
            Dockerfile { file: "/bin/p".into(), command: vec!["agent".into()], ..Dockerfile::default() };
        let archive = write(&image, "example.org/p:1", "amd64", b"program").unwrap();
        assert_eq!(archive, write(&image, "example.org/p:1", "amd64", b"program").unwrap(), "reproducible");
        let files = files(&archive);
        let json = |path: &str| serde_json::from_slice::<Value>(&files[path]).unwrap();
        let blob = |described: &Value| {
            let name = described["digest"].as_str().unwrap();
            let content = &files[&format!("blobs/{}", name.replace(':', "/"))];
            assert_eq!(
                (digest(content).as_str(), content.len() as u64),
                (name, described["size"].as_u64().unwrap())
            );
            content.clone()
        };
        let index = json("index.json");
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "example.org/p:1");
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&layer));
        assert_eq!(config["config"]["Cmd"][0], "agent");
        assert_eq!(self::files(&layer)["bin/p"], b"program");
        let docker = json("manifest.json");
        assert_eq!(files[docker[0]["Layers"][0].as_str().unwrap()], layer);
    }
}
