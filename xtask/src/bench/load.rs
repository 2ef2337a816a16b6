//! Loads that no server is needed for: context switches and block reads.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    container::Container,
    machine::{Process, pause},
};

/// Two processes on CPU 0, each in a container, that pass a byte to each other for so long: each passing is a context switch.
pub(super) fn switches(containers: &[Container; 2], duration: Duration) -> Result<()> {
    let ((first, mut there), (second, back)) = (io::pipe()?, io::pipe()?);
    // The byte that goes round; then only the two hold the pipes, and when one of them ends, so does the other.
    there.write_all(b"x").context("cannot write to a pipe")?;
    let cat = |container: &Container, input: io::PipeReader, out: io::PipeWriter| -> Result<Process> {
        let mut command = container.command(&["taskset", "-c", "0", "cat"]);
        let child = command.stdin(Stdio::from(input)).stdout(Stdio::from(out)).spawn();
        Ok(Process(child.context("cannot start a shell")?))
    };
    let _two = [cat(&containers[0], first, back)?, cat(&containers[1], second, there)?];
    pause(duration)
}

/// A file for reading past the page cache.
pub(super) struct Blocks {
    path: PathBuf,
}

impl Blocks {
    const SIZE: usize = 64 << 20;

    /// Writes the file into `folder`, down to the device.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let this = Self { path: folder.join(format!("podmeter-bench-blocks-{}", std::process::id())) };
        let fill = || -> io::Result<()> {
            let mut file = File::create(&this.path)?;
            file.write_all(&vec![b'x'; Self::SIZE])?;
            file.sync_all()
        };
        fill().with_context(|| format!("cannot write 64 MiB to {}", this.path.display()))?;
        Ok(this)
    }

    /// Reads it in pieces of 4 KiB for so long; in vain where the file system has no direct I/O.
    pub(super) fn read(&self, container: &Container, duration: Duration) -> Result<()> {
        let input = format!("if={}", self.path.display());
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let mut command = container.command(&["dd", &input, "of=/dev/null", "bs=4k", "iflag=direct"]);
            let mut dd = Process(command.stderr(Stdio::null()).spawn().context("cannot start a shell")?);
            while Instant::now() < end {
                if let Some(status) = dd.0.try_wait().context("cannot wait for dd")? {
                    if !status.success() {
                        return Ok(());
                    }
                    break;
                }
                pause(Duration::from_millis(10))?;
            }
        }
        Ok(())
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!("remove {} by hand: {error}", self.path.display());
        }
    }
}
