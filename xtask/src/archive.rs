//! Debian's archive, through an apt of our own: its sources, lists and state are in our cache, and the machine's own packages
//! are neither looked at nor changed. So one machine can take from several releases what it never installs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::command::{find, output, run};

/// A release, and the archive that it is in.
pub(crate) type Suite = (&'static str, &'static str);

/// The keys of Debian's releases, of the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A package, exactly.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
}

/// An apt with a state of its own.
pub(crate) struct Archive {
    directory: PathBuf,
    suites: &'static [Suite],
    /// As Debian calls it.
    architecture: &'static str,
}

impl Archive {
    /// These releases for an architecture, with the state in a directory, which is made where it is not there.
    pub(crate) fn new(
        directory: PathBuf,
        suites: &'static [Suite],
        architecture: &'static str,
    ) -> Result<Self> {
        for part in ["state", "lists/partial", "cache/archives/partial", "packages", "none"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let this = Self { directory, suites, architecture };
        let mirror = mirror()?;
        let source =
            |(archive, suite): &Suite| format!("deb [signed-by={KEYRING}] {mirror}/{archive} {suite} main\n");
        fs::write(this.path("sources.list"), suites.iter().map(source).collect::<String>())?;
        fs::write(this.path("status"), "")?;
        fs::write(this.path("apt.conf"), this.configuration())?;
        Ok(this)
    }

    fn path(&self, part: &str) -> PathBuf {
        self.directory.join(part)
    }

    /// What apt shall take for its own.
    fn configuration(&self) -> String {
        let paths = [
            ("Dir::State", "state"),
            ("Dir::State::Lists", "lists"),
            // No package is installed as far as it knows: what a tree needs is all of it.
            ("Dir::State::Status", "status"),
            ("Dir::Cache", "cache"),
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::Etc::SourceParts", "none"),
            ("Dir::Etc::PreferencesParts", "none"),
        ];
        let paths = paths.map(|(name, part)| format!("{name} \"{}\";\n", self.path(part).display()));
        // A release that has ended is signed for ever, but was valid for a week.
        let rest = "Acquire::Check-Valid-Until \"false\";\nAcquire::Languages \"none\";\n\
                    Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
                    APT::Install-Recommends \"false\";\nAPT::Sandbox::User \"root\";\nDebug::NoLocking \"true\";\n";
        let architecture = self.architecture;
        paths.concat()
            + rest
            + &format!(
                "APT::Architecture \"{architecture}\";\nAPT::Architectures {{ \"{architecture}\"; }};\n"
            )
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.path("apt.conf")).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// Fetches what the releases have now.
    pub(crate) fn update(&self) -> Result<()> {
        let suites: Vec<_> = self.suites.iter().map(|(_, suite)| *suite).collect();
        println!("fetching the package lists of {} for {}", suites.join(", "), self.architecture);
        run(self.apt("apt-get").args(["update", "--quiet=2", "--error-on=any"]))
            .context("cannot fetch the package lists")
    }

    /// Has package lists, whichever.
    pub(crate) fn ensure_lists(&self) -> Result<()> {
        if self.has_lists() { Ok(()) } else { self.update() }
    }

    /// Whether the lists were ever fetched.
    fn has_lists(&self) -> bool {
        fs::read_dir(self.path("lists"))
            .is_ok_and(|mut lists| lists.any(|list| list.is_ok_and(|list| list.path().is_file())))
    }

    /// The file of a package, from the cache or else from the archive; none when the archive has it no more.
    pub(crate) fn fetch(&self, package: &Package) -> Result<Option<PathBuf>> {
        let kept = self.path("packages").join(format!("{}.deb", package.sha256));
        if kept.is_file() {
            return Ok(Some(kept));
        }
        let have = self.has_lists() && self.download(package)?;
        if !have {
            self.update()?;
            if !self.download(package)? {
                return Ok(None);
            }
        }
        Ok(Some(kept))
    }

    /// Downloads a package and checks that it is the one that is meant; whether the archive has it.
    fn download(&self, package: &Package) -> Result<bool> {
        let folder = self.path("download");
        _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let exactly = format!("{}={}", package.name, package.version);
        let mut apt = self.apt("apt-get");
        apt.current_dir(&folder).args(["download", "--quiet=2", &exactly]);
        let done = apt.output().context("cannot start apt-get")?;
        if !done.status.success() {
            println!("{exactly}: {}", String::from_utf8_lossy(&done.stderr).trim());
            return Ok(false);
        }
        let file = fs::read_dir(&folder)?.next().with_context(|| format!("{exactly}: no file came"))??.path();
        // Not by our own code, which is not optimised, over tens of megabytes.
        let found = output(Command::new("sha256sum").arg("--binary").arg(&file))?;
        let found = found.split(' ').next().unwrap_or_default().to_owned();
        if found != package.sha256 {
            bail!(
                "{exactly} has the SHA-256 {found}, and {} is expected: it is not what it was",
                package.sha256
            );
        }
        fs::rename(&file, self.path("packages").join(format!("{found}.deb")))?;
        Ok(true)
    }

    /// The names of all packages that begin so.
    pub(crate) fn names(&self, start: &str) -> Result<Vec<String>> {
        self.ensure_lists()?;
        let said = output(self.apt("apt-cache").args(["pkgnames", start]))?;
        Ok(said.lines().map(str::to_owned).collect())
    }

    /// The newest version of a package.
    pub(crate) fn newest(&self, name: &str) -> Result<Package> {
        let said = output(self.apt("apt-cache").args(["show", "--no-all-versions", name]))?;
        let field = |field: &str| {
            let value = said.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
            value.map(str::to_owned).with_context(|| format!("apt-cache shows no {field} of {name}"))
        };
        Ok(Package { name: field("Package")?, version: field("Version")?, sha256: field("SHA256")? })
    }

    /// Unpacks packages of the first release, and all that they depend on, into a directory; nothing of them is run. What is
    /// there already, of the same packages, stays.
    pub(crate) fn tree(&self, to: &Path, packages: &[&str], fresh: bool) -> Result<()> {
        let stamp = to.with_extension("packages");
        let wanted = packages.join(" ");
        if !fresh && fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == wanted) {
            return Ok(());
        }
        self.ensure_lists()?;
        println!("unpacking {wanted}, and what they need, into {}", to.display());
        let install = |how: &str| {
            let mut apt = self.apt("apt-get");
            apt.args(["install", how, "--yes", "--quiet=2", "-t", self.suites[0].1]).args(packages);
            apt
        };
        run(&mut install("--download-only"))?;
        let said = output(&mut install("--simulate"))?;
        let mut files: Vec<_> = said.lines().filter_map(file_name).collect();
        // base-files first: it has the links from /bin to /usr/bin that the others unpack through.
        files.sort_by_key(|file| !file.starts_with("base-files_"));
        _ = fs::remove_dir_all(to);
        fs::create_dir_all(to)?;
        for file in files {
            unpack(&self.path("cache/archives").join(file), to)?;
        }
        fs::write(stamp, wanted)?;
        Ok(())
    }
}

/// The file that apt downloads a package to, from a line of what it would do: `Inst NAME (VERSION RELEASE [ARCHITECTURE])`.
fn file_name(line: &str) -> Option<String> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
    let (version, rest) = rest.split_once(' ')?;
    let architecture = rest.split_once(')')?.0.rsplit_once('[')?.1.strip_suffix(']')?;
    Some(format!("{name}_{}_{architecture}.deb", version.replace(':', "%3a")))
}

/// Unpacks a package over what is there.
pub(crate) fn unpack(package: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    run(Command::new("dpkg-deb").arg("--extract").args([package, to]))
}

/// Where the machine takes Debian's packages from.
fn mirror() -> Result<String> {
    if let Ok(mirror) = env::var("PODMETER_DEBIAN_MIRROR") {
        return Ok(mirror.trim_end_matches('/').to_owned());
    }
    let advice = "set PODMETER_DEBIAN_MIRROR to the address of a Debian mirror, above /debian";
    if find("apt-get").is_none() || find("dpkg-deb").is_none() || !Path::new(KEYRING).exists() {
        bail!("the kernels and QEMU are Debian's: this takes apt, dpkg and debian-archive-keyring");
    }
    let said = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let mirror = said.lines().find_map(|line| line.trim_end_matches('/').strip_suffix("/debian"));
    Ok(mirror.with_context(|| format!("apt here takes nothing from a Debian mirror: {advice}"))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn an_epoch_is_escaped_in_the_name_of_a_file() {
        let line = "Inst login (1:4.16.0-2 Debian:13.1/stable, Debian:12/oldstable [amd64]) []";
        assert_eq!(file_name(line).as_deref(), Some("login_1%3a4.16.0-2_amd64.deb"));
        assert_eq!(file_name("Conf login (1:4.16.0-2 Debian:13.1/stable [amd64])"), None);
    }
}
