//! The board that the emulator plays, for each architecture: the same ports and disks on both, so that guests find the same.

use std::process::Command;

use crate::architecture::Architecture;

/// A board.
#[derive(Clone, Copy, Debug)]
pub(super) struct Board(pub(super) Architecture);

impl Board {
    /// The emulator's program.
    pub(super) fn program(self) -> &'static str {
        match self.0 {
            Architecture::Amd64 => "qemu-system-x86_64",
            Architecture::Arm64 => "qemu-system-aarch64",
        }
    }

    /// What the board is, and its processor.
    pub(super) fn arguments(self) -> &'static [&'static str] {
        match self.0 {
            Architecture::Amd64 => &["-cpu", "max"],
            // One that clouds have. The emulator's own is slower: what it signs pointers with is work.
            Architecture::Arm64 => &["-machine", "virt", "-cpu", "neoverse-n1"],
        }
    }

    /// Adds serial ports, in this order, each with what is at its other end: `ttyS0`, `ttyS1` in the guest.
    pub(super) fn serial(self, command: &mut Command, ends: &[&str]) {
        for (number, end) in ends.iter().enumerate() {
            command.arg("-chardev").arg(format!("{end},id=serial{number}"));
            match self.0 {
                Architecture::Amd64 => command.arg("-serial").arg(format!("chardev:serial{number}")),
                // Its own ports have other names.
                Architecture::Arm64 => {
                    command.arg("-device").arg(format!("pci-serial,chardev=serial{number}"))
                }
            };
        }
    }

    /// What takes symbols out of the programs of its architecture.
    pub(super) fn strip(self) -> &'static str {
        match self.0 {
            Architecture::Amd64 => "strip",
            Architecture::Arm64 => "aarch64-linux-gnu-strip",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_in_their_order_on_either_board() {
        let serial = |architecture| {
            let mut command = Command::new("qemu");
            Board(architecture).serial(&mut command, &["stdio", "file,path=results"]);
            let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            words.join(" ")
        };
        assert_eq!(
            serial(Architecture::Amd64),
            "-chardev stdio,id=serial0 -serial chardev:serial0 \
             -chardev file,path=results,id=serial1 -serial chardev:serial1"
        );
        assert_eq!(
            serial(Architecture::Arm64),
            "-chardev stdio,id=serial0 -device pci-serial,chardev=serial0 \
             -chardev file,path=results,id=serial1 -device pci-serial,chardev=serial1"
        );
    }
}
