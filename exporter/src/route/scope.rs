//! Whose a pattern is.

use crate::cgroup::tree::Workload;

/// Some of the containers: a name, in which `*` stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(String);

impl Scope {
    /// Of a name as it is in the label `name` or `id`.
    pub fn new(name: &str) -> Self {
        Self(name.trim().to_owned())
    }

    /// Whether a workload is one of them.
    pub fn has(&self, workload: &Workload) -> bool {
        let names = [Some(&*workload.path), workload.container_id.as_deref(), workload.unit.as_deref()];
        names.into_iter().flatten().any(|name| matches(&self.0, name))
    }
}

/// Whether a name is what a glob says.
fn matches(glob: &str, name: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    // To take each part where it comes first leaves the most for those that follow.
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_anything() {
        for (glob, name) in [
            ("nginx.service", "nginx.service"),
            ("*", ""),
            ("*", "/a/b"),
            ("/kubepods*/a*.scope", "/kubepods.slice/x/abc.scope"),
            ("*ab*b", "abab"),
            ("a*a", "aa"),
            ("a**b*", "ab"),
        ] {
            assert!(matches(glob, name), "{glob} {name}");
        }
        for (glob, name) in [
            ("nginx", "nginx.service"),
            ("", "a"),
            ("a*a", "a"),
            ("*ab*b", "ab"),
            ("/a*", "a"),
            ("a*b*c", "acb"),
        ] {
            assert!(!matches(glob, name), "{glob} {name}");
        }
    }
}
