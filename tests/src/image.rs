//! Images for containerd, without a registry: a busybox, and what a test puts beside it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::temp::TempDir;

/// The image that pods can have.
pub const IMAGE: &str = "registry.test/busybox:1";
/// That of their pause containers.
pub const PAUSE: &str = "registry.test/pause:1";

/// Makes `image.tar` in a directory: an archive with both images, as `docker save` would make it. The programs are in `/bin`, with
/// the libraries that they want.
///
/// # Panics
/// Without busybox, or when a program is not there.
pub fn archive(directory: &TempDir, programs: &[&Path]) {
    let path = directory.path();
    let layer = path.join("layer");
    fs::create_dir_all(layer.join("bin")).expect("our own directory");
    let busybox =
        Command::new("/bin/sh").args(["-c", "command -v busybox"]).output().expect("a shell").stdout;
    let busybox = String::from_utf8(busybox).expect("a path");
    fs::copy(busybox.trim(), layer.join("bin/busybox")).expect("busybox-static");
    std::os::unix::fs::symlink("busybox", layer.join("bin/sh")).expect("our own directory");
    for program in programs {
        let name = program.file_name().expect("a program's path");
        fs::copy(program, layer.join("bin").join(name)).expect("a program");
        for library in libraries(program) {
            let to = layer.join(library.strip_prefix("/").expect("a path from the root"));
            fs::create_dir_all(to.parent().expect("a directory")).expect("our own directory");
            fs::copy(&library, to).expect("a library");
        }
    }
    tar(path, &["-cf", "layer.tar", "-C", "layer", "."]);
    // Not by our own code, which is not optimised.
    let sum = Command::new("sha256sum").arg(path.join("layer.tar")).output().expect("coreutils").stdout;
    let sum = String::from_utf8_lossy(&sum);
    let layer = sum.split(' ').next().expect("a sum");
    let digest =
        |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let config = |command: &[&str]| {
        json!({
            "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }, "os": "linux",
            "config": {"Entrypoint": command},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        })
    };
    let images = [(IMAGE, &["/bin/sh"][..]), (PAUSE, &["/bin/busybox", "sleep", "1000000"])];
    let list = images.map(|(tag, command)| {
        let text = config(command).to_string();
        let name = format!("{}.json", digest(text.as_bytes()));
        directory.file(&name, text);
        json!({"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]})
    });
    let names = list.each_ref().map(|image| image["Config"].as_str().expect("a name").to_owned());
    directory.file("manifest.json", json!(list).to_string());
    tar(path, &["-cf", "image.tar", "manifest.json", "layer.tar", &names[0], &names[1]]);
}

/// The files that the loader takes for a program, itself among them.
fn libraries(program: &Path) -> BTreeSet<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("libc-bin");
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(said: &str) -> BTreeSet<PathBuf> {
    let words = said.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(PathBuf::from).collect()
}

fn tar(directory: &Path, arguments: &[&str]) {
    let status = Command::new("tar").args(arguments).current_dir(directory).stdin(Stdio::null()).status();
    assert!(status.expect("tar").success(), "tar {arguments:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loader_says_has_paths_and_one_name_without() {
        let said = "\tlinux-vdso.so.1 (0x00007fb3ce649000)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fb3ce24c000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007fb3ce64b000)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse(said), expected.map(PathBuf::from).into());
        assert_eq!(parse("\tnot a dynamic executable\n"), BTreeSet::new());
    }
}
