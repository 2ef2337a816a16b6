//! What became of a probe, and why, in a line.

use aya::programs::ProgramError;

/// How it went with a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It measures.
    Attached,
    /// Switched off by a flag.
    Disabled,
    /// Something does the same less well in its place, or a part of the signal is missing.
    Degraded,
    /// This kernel does not have what it needs.
    Unsupported,
    /// It should work, and did not: a missing privilege, a refusal by the verifier.
    Failed,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Attached, Self::Disabled, Self::Degraded, Self::Unsupported, Self::Failed];

    /// The name in the `state` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Disabled => "disabled",
            Self::Degraded => "degraded",
            Self::Unsupported => "unsupported",
            Self::Failed => "failed",
        }
    }
}

/// The verdict on a probe.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The signal that it belongs to.
    pub signal: &'static str,
    /// The program.
    pub program: &'static str,
    /// How it went.
    pub state: State,
    /// Why, unless it is attached; one line.
    pub reason: String,
}

/// One line that says what went wrong and, where that is known, what to do.
pub(super) fn explain(error: &anyhow::Error) -> String {
    if let Some(ProgramError::LoadError { io_error, verifier_log }) = error.downcast_ref() {
        let log = verifier_log.to_string();
        let statistics = ["processed ", "verification time ", "stack depth "];
        let said = log.lines().filter(|line| !line.trim().is_empty());
        let said = said.filter(|line| !statistics.iter().any(|start| line.starts_with(start)));
        let tail: Vec<_> = said.collect::<Vec<_>>().into_iter().rev().take(3).collect();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join(" | ");
        return format!(
            "the kernel refuses the program: {io_error}{}{tail}",
            if tail.is_empty() { "" } else { ": " }
        );
    }
    let denied = error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    });
    let hint = if denied { " (needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or root)" } else { "" };
    let text = error.chain().map(ToString::to_string).collect::<Vec<_>>();
    let mut text: Vec<_> = text.iter().map(|text| text.replace('\n', " ")).collect();
    text.dedup();
    format!("{}{hint}", text.join(": "))
}

/// Whether what the verifier says is that this kernel has no such helper, or not for this type of program.
pub(super) fn lacks_helper(reason: &str) -> bool {
    ["invalid func unknown#", "unknown func bpf_"].iter().any(|words| reason.contains(words))
}
