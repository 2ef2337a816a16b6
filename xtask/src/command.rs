//! Running other programs, and where they are.

use std::{
    env,
    ffi::OsStr,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// The repository's root.
pub(crate) fn root() -> Result<PathBuf> {
    let xtask = env::var_os("CARGO_MANIFEST_DIR").context("run this through cargo: `cargo xtask`")?;
    let root = Path::new(&xtask).parent().context("the xtask package has no parent folder")?;
    Ok(root.to_owned())
}

/// The cargo that started us, at the repository's root.
pub(crate) fn cargo<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?).args(arguments);
    Ok(command)
}

/// Where cargo keeps what it downloads, and the programs that it installs.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home).context("set HOME or CARGO_HOME")
}

/// The path of a program: from PATH, cargo's own folder, or those of the administrator.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo = cargo_home().ok().map(|home| home.join("bin"));
    let folders = env::split_paths(&path).chain(cargo).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Whether we may install packages and load programs into the kernel: /proc/self belongs to the effective user.
pub(crate) fn is_root() -> bool {
    Path::new("/proc/self").metadata().is_ok_and(|me| me.uid() == 0)
}

/// Runs a command to its end; what it prints is shown.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{} failed ({status}); what it printed is above", name(command));
    }
    Ok(())
}

/// Runs a command to its end and returns what it prints; its errors are shown.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    command.stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{} failed ({}); what it printed is above", name(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} printed something other than text", name(command)))
}

/// Whether a command succeeds; what it prints is not shown.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs a command to its end, shows what it prints, hands over each line too, and tells whether it succeeded.
pub(crate) fn watch(command: &mut Command, mut line: impl FnMut(&str)) -> Result<bool> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut reader = BufReader::new(child.stdout.take().context("a child without a standard output")?);
    let mut buffer = Vec::new();
    while reader.read_until(b'\n', &mut buffer).context("cannot read what the command prints")? > 0 {
        std::io::stdout().write_all(&buffer).context("cannot write to the standard output")?;
        line(String::from_utf8_lossy(&buffer).trim_end());
        buffer.clear();
    }
    Ok(child.wait().context("cannot wait for the command")?.success())
}

/// The command as a person would name it: its program and first argument.
fn name(command: &Command) -> String {
    let program =
        Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    match command.get_args().next() {
        Some(first) => format!("`{program} {}`", first.to_string_lossy()),
        None => format!("`{program}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert!(error.starts_with("`sh -c` failed (exit status: 3)"), "{error}");
        assert!(!succeeds(Command::new("sh").args(["-c", "exit 3"])));
    }

    #[test]
    fn watching_hands_over_each_line() {
        let mut lines = Vec::new();
        let done = watch(Command::new("sh").args(["-c", "echo one; printf two; exit 1"]), |line| {
            lines.push(line.to_owned())
        });
        assert!(!done.unwrap());
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn programs_are_found() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program").is_none());
    }
}
