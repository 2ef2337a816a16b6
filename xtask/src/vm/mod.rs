//! `cargo xtask vm`: the tests on kernels that this machine does not run.

mod board;
mod cpio;
mod guest;
mod kernel;
mod machine;
mod matrix;
mod module;
mod runner;
mod systemd;
mod table;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use self::{
    guest::Guest,
    kernel::{Kernel, Lock, Unpacked},
    machine::{Machine, Settings},
    matrix::{Choice, Support},
};
use crate::{
    architecture::Architecture,
    archive::{Archive, Suite},
    cache::cache,
    command::{find, root},
    test::Tally,
};

/// Where kernels, the emulator and the guests' programs come from.
const SUITES: [Suite; 4] = [
    ("debian", "trixie"),
    ("debian", "trixie-backports"),
    ("debian", "bookworm"),
    ("debian-security", "bullseye-security"),
];

/// And those of another architecture.
const FOREIGN: [Suite; 1] = [SUITES[0]];

/// Where the kernels are locked.
const LOCK: &str = "tests/vm/kernels.toml";

/// Run the live tests on other kernels, in virtual machines.
///
/// The kernels, the emulator and what is on the guests' disk are Debian's packages, kept in the user's cache. Nothing of them
/// is installed. The guests are emulated in software, and so want no privileges, and much patience.
#[derive(Args)]
#[command(max_term_width = 100)]
pub(crate) struct Task {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Fetch what the guests are made of.
    Fetch {
        /// Look for newer packages, of the same kernel series, and lock them.
        #[arg(long)]
        update: bool,
    },
    /// Run the live tests in guests, on every kernel and leg.
    Run {
        /// Only these kernels.
        #[arg(long = "kernel", value_name = "KERNEL")]
        kernels: Vec<String>,
        /// Only these legs.
        #[arg(long = "leg", value_name = "LEG")]
        legs: Vec<String>,
        #[command(flatten)]
        limits: Limits,
        /// Run only the tests whose name contains one of these.
        filters: Vec<String>,
    },
    /// Write the README's table of kernels and signals, from the results of the last run.
    Table {
        /// Only say whether it is what it would be.
        #[arg(long)]
        check: bool,
    },
    /// Open a shell in a guest; `exit` ends it, and control-a x at once.
    Shell(Options),
    /// Run one test binary in a guest, as cargo's runner does.
    Runner {
        #[command(flatten)]
        options: Options,
        /// The binary.
        binary: PathBuf,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// Which guest.
#[derive(Args, Clone)]
struct Options {
    /// The kernel, by its series.
    #[arg(long, env = runner::KERNEL, default_value = "6.12")]
    kernel: String,
    /// What the machine is like: `plain`, `hybrid` (cgroup v1 beside v2), `no-btf`, `systemd` (with containerd) or `arm64`.
    #[arg(long, env = runner::LEG, default_value = "plain")]
    leg: String,
    #[command(flatten)]
    limits: Limits,
}

/// How much of this machine a guest may take.
#[derive(Args, Clone)]
struct Limits {
    /// How many CPUs it has.
    #[arg(long, env = runner::CPUS, default_value_t = 2)]
    cpus: u32,
    /// After how many seconds it is ended.
    #[arg(long, env = runner::SECONDS, default_value_t = 600)]
    seconds: u64,
}

/// What guests are made of, on this machine.
struct Parts {
    directory: PathBuf,
    archive: Archive,
    /// For 64-bit ARM.
    foreign: Archive,
    lock: Lock,
    guest: Guest,
}

impl Parts {
    fn fetch(update: bool) -> Result<Self> {
        let directory = cache()?.join("vm");
        let archive = Archive::new(directory.join("apt"), &SUITES, Architecture::Amd64.name())?;
        let foreign = Archive::new(
            directory.join(Architecture::Arm64.name()).join("apt"),
            &FOREIGN,
            Architecture::Arm64.name(),
        )?;
        let path = root()?.join(LOCK);
        let mut lock = Lock::read(&path)?;
        if update {
            archive.update()?;
            foreign.update()?;
            for kernel in &mut lock.kernels {
                let archive = if kernel.architecture == Architecture::Arm64 { &foreign } else { &archive };
                match kernel.newest(archive)? {
                    Some(newest) => *kernel = newest,
                    None => {
                        eprintln!("WARNING: the archive has no kernel {}; what is locked stays", kernel.name)
                    }
                }
                println!("kernel {}: {}", kernel.name, kernel.title());
            }
            lock.write(&path)?;
        }
        let guest = Guest::fetch(&archive, &directory, update)?;
        Ok(Self { directory, archive, foreign, lock, guest })
    }

    fn archive(&self, architecture: Architecture) -> &Archive {
        match architecture {
            Architecture::Amd64 => &self.archive,
            Architecture::Arm64 => &self.foreign,
        }
    }

    /// A guest's parts besides its kernel, which are fetched where they are not there yet.
    fn guest(&self, architecture: Architecture, fresh: bool) -> Result<Guest> {
        match architecture {
            Architecture::Amd64 => Ok(self.guest.clone()),
            Architecture::Arm64 => {
                Guest::foreign(&self.archive, &self.foreign, &self.directory.join(architecture.name()), fresh)
            }
        }
    }

    /// A kernel on this machine; none where it cannot be had and need not be, which is said.
    fn unpacked(&self, kernel: &Kernel) -> Result<Option<Unpacked>> {
        kernel.fetch(self.archive(kernel.architecture), &self.directory.join("kernels"))
    }

    fn kernel(&self, name: &str) -> Result<Unpacked> {
        let kernel = self.unpacked(self.lock.kernel(name)?)?;
        kernel.with_context(|| format!("there is no kernel {name} to be had"))
    }

    /// The guest of a leg.
    fn guest_of(&self, leg: &str, architecture: Architecture) -> Result<Guest> {
        match architecture {
            Architecture::Amd64 => self.guest.of(leg, &self.archive, &self.directory),
            Architecture::Arm64 => self.guest(architecture, false),
        }
    }
}

impl Options {
    fn settings(&self) -> Settings {
        Settings { leg: self.leg.clone(), cpus: self.limits.cpus, seconds: self.limits.seconds }
    }
}

/// What of the live tests does not run on this machine itself, by a part of the names; says so.
pub(crate) fn left_out() -> Result<Vec<String>> {
    Ok(Support::read()?.left_out("", matrix::HOST))
}

/// Runs all of it, as a step of the tests, and checks that README.md says what comes out.
pub(crate) fn test(tally: &mut Tally) -> Result<()> {
    if find("apt-get").is_none() {
        println!("SKIPPED: the kernels are Debian's, and there is no apt here");
        tally.skipped += 1;
        return Ok(());
    }
    let choice = Choice { kernels: &[], legs: &[], filters: &[] };
    let parts = Parts::fetch(false)?;
    let found = matrix::execute(&parts, &choice, &Limits { cpus: 2, seconds: 900 }, tally)?;
    // Those of another architecture have no column.
    let own = parts.lock.kernels.iter().filter(|kernel| kernel.architecture == Architecture::Amd64);
    if own.into_iter().any(|kernel| found.iter().all(|one| one.kernel != kernel.name)) {
        println!("README's table of kernels is NOT CHECKED: a kernel could not be had");
        return Ok(());
    }
    table::run(true)
}

/// Runs the command; a runner's exit code is that of what it ran.
pub(crate) fn run(task: &Task) -> Result<ExitCode> {
    match &task.action {
        Action::Fetch { update } => {
            let parts = Parts::fetch(*update)?;
            Guest::fetch_others(&parts.archive, &parts.directory, *update)?;
            for kernel in &parts.lock.kernels {
                parts.unpacked(kernel)?;
                parts.guest(kernel.architecture, *update)?;
            }
        }
        Action::Run { kernels, legs, limits, filters } => {
            let mut tally = Tally::default();
            let choice = Choice { kernels, legs, filters };
            let outcome = matrix::execute(&Parts::fetch(false)?, &choice, limits, &mut tally);
            println!("\n{tally}");
            outcome?;
        }
        Action::Table { check } => table::run(*check)?,
        Action::Shell(options) => {
            let parts = Parts::fetch(false)?;
            let (kernel, settings) = (parts.kernel(&options.kernel)?, options.settings());
            let directory = parts.directory.join(format!("run-{}", std::process::id()));
            let guest = parts.guest_of(&options.leg, kernel.architecture)?;
            Machine { guest: &guest, kernel: &kernel, settings: &settings, directory }.shell(&[])?;
        }
        Action::Runner { options, binary, arguments } => {
            return Ok(ExitCode::from(runner::execute(options, binary, arguments)?));
        }
    }
    Ok(ExitCode::SUCCESS)
}
