//! Programs that tests use and that no Debian package has: built from the Go module proxy, at a version that stays, once.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cache::cache,
    command::{find, output, root, run},
    install,
};

/// The Go that is fetched where there is none, or one that is too old.
const GO: &str = "1.26.8";

/// A program that Go builds from its published source.
pub(crate) struct Module {
    /// The name of the program.
    pub(crate) name: &'static str,
    /// Its package; one of ours is `./FOLDER`, below `list`.
    pub(crate) package: &'static str,
    /// The version of its module, exactly.
    pub(crate) version: &'static str,
    /// The build tags.
    pub(crate) tags: &'static str,
    /// The folder of a go.mod of ours that names every module that the program is built from, where its own list cannot be used
    /// from outside.
    pub(crate) list: Option<&'static str>,
    /// Files of another's, without which it is not whole.
    pub(crate) copies: Option<Copies>,
    /// What the linker is told, such as the version that the program says it is.
    pub(crate) link: &'static str,
}

/// Files of a published package that are built as a package of ours: where the rest of it takes more than the whole of podmeter.
pub(crate) struct Copies {
    /// The module, `PATH@VERSION`.
    pub(crate) module: &'static str,
    /// The package, a folder of the module.
    pub(crate) package: &'static str,
    /// Its files.
    pub(crate) files: &'static [&'static str],
    /// The package of ours, a folder below the list.
    pub(crate) folder: &'static str,
}

impl Copies {
    fn make(&self, list: &Path, why: &str) -> Result<()> {
        let (from, to) = (source(self.module, why)?.join(self.package), list.join(self.folder));
        fs::create_dir_all(&to).with_context(|| format!("cannot create {}", to.display()))?;
        for file in self.files {
            let text = fs::read(from.join(file));
            let text = text.with_context(|| format!("{} has no {}/{file}", self.module, self.package))?;
            fs::write(to.join(file), text).with_context(|| format!("cannot write {file}"))?;
        }
        Ok(())
    }
}

impl Module {
    /// The program's path, after building it if it is not there; `why` follows "needed" in what is printed.
    pub(crate) fn ensure(&self, why: &str) -> Result<PathBuf> {
        let directory = cache()?.join(format!("{}-{}", self.name, self.version));
        let program = directory.join(self.name);
        let (sources, kept) = (self.sources()?, directory.join("sources"));
        if program.is_file() && fs::read_to_string(&kept).ok() == sources {
            return Ok(program);
        }
        if let (Some(copies), Some(list)) = (&self.copies, self.list) {
            copies.make(&root()?.join(list), why)?;
        }
        println!("building {} {} with Go, which takes minutes: needed {why}", self.name, self.version);
        let mut go = Command::new(go(why)?);
        match self.list {
            Some(list) => {
                go.args(["build", "-mod=readonly", "-o"]).arg(&program).current_dir(root()?.join(list))
            }
            None => go.arg("install").env("GOBIN", &directory),
        };
        go.args(["-trimpath", "-buildvcs=false", "-tags", self.tags, "-ldflags", self.link]);
        go.arg(if self.list.is_some() {
            self.package.to_owned()
        } else {
            format!("{}@{}", self.package, self.version)
        });
        go.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local");
        run(&mut go).with_context(|| format!("cannot build {} {}, needed {why}", self.name, self.version))?;
        if !program.is_file() {
            bail!("Go has built no {}", program.display());
        }
        if let Some(sources) = sources {
            fs::write(&kept, sources).with_context(|| format!("cannot write {}", kept.display()))?;
        }
        Ok(program)
    }

    /// What a program of ours is made of, with the list of its modules: it is built again when that changes. Others have versions.
    fn sources(&self) -> Result<Option<String>> {
        let Some((list, folder)) = self.list.zip(self.package.strip_prefix("./")) else { return Ok(None) };
        let list = root()?.join(list);
        let files = fs::read_dir(list.join(folder)).with_context(|| format!("cannot list {folder}"))?;
        let mut paths = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
        paths.sort();
        paths.extend(["go.mod", "go.sum"].map(|name| list.join(name)));
        let read = |path: &PathBuf| {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        paths.iter().map(read).collect::<Result<_>>().map(Some)
    }
}

/// The folder of a published module, `PATH@VERSION`: for what lies in it beside programs.
pub(crate) fn source(module: &str, why: &str) -> Result<PathBuf> {
    folder(&go(why)?, module)
}

/// Where a Go keeps a module, after fetching it.
fn folder(go: &Path, module: &str) -> Result<PathBuf> {
    let said = output(
        Command::new(go)
            .args(["mod", "download", "-json", module])
            .env("GOTOOLCHAIN", "local")
            .current_dir("/"),
    )?;
    let said: serde_json::Value = serde_json::from_str(&said).context("what go says of a module")?;
    Ok(said["Dir"].as_str().with_context(|| format!("go has no folder of {module}"))?.into())
}

/// A Go that is new enough.
fn go(why: &str) -> Result<PathBuf> {
    let known = [find("go"), Some(PathBuf::from("/usr/local/go/bin/go"))];
    if let Some(go) = known.into_iter().flatten().find(|go| is_new_enough(go)) {
        return Ok(go);
    }
    let fetched = cache()?.join(format!("go-{GO}/bin/go"));
    if !is_new_enough(&fetched) {
        fetch(why)?;
    }
    Ok(fetched)
}

fn is_new_enough(go: &Path) -> bool {
    let said = output(Command::new(go).args(["env", "GOVERSION"])).unwrap_or_default();
    version(&said).is_some_and(|found| Some(found) >= version(GO))
}

/// Major and minor of `go1.26.8` or `1.26.8`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().trim_start_matches("go").split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.trim_end_matches(|char: char| !char.is_ascii_digit()).parse().ok()?;
    Some((major, minor))
}

/// Fetches a new Go as what newer ones fetch themselves as, a module, with whichever Debian has.
fn fetch(why: &str) -> Result<()> {
    if find("go").is_none() {
        install::packages(&["golang-go"], why)?;
    }
    let go = find("go").context("no go, after installing it")?;
    let arch = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("Go {GO} or newer is needed {why}: install it (there is none to fetch for {other})"),
    };
    println!("fetching Go {GO}: needed {why}");
    let module = format!("golang.org/toolchain@v0.0.1-go{GO}.linux-{arch}");
    let source = folder(&go, &module)?;
    let to = cache()?.join(format!("go-{GO}"));
    fs::create_dir_all(to.parent().context("a cache")?)?;
    run(Command::new("cp").args(["--recursive", "--no-target-directory"]).arg(source).arg(&to))?;
    // A module has no programs: they come without the right to run.
    for folder in ["bin".to_owned(), format!("pkg/tool/linux_{arch}")] {
        for entry in fs::read_dir(to.join(folder))? {
            fs::set_permissions(entry?.path(), fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn reads_versions() {
        assert_eq!(version("go1.26.8\n"), Some((1, 26)));
        assert_eq!(version("go1.27rc1"), None, "no release");
        assert!(version("go1.19.8") < version("1.26.8"));
        assert_eq!(version("devel"), None);
    }
}
