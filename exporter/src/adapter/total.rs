//! What containers used together of CPU and memory, within their windows.

use super::window::Window;

/// A sum, of which a part may be unknown: then all of it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sum(Option<f64>);

impl Default for Sum {
    fn default() -> Self {
        Self(Some(0.0))
    }
}

impl Sum {
    /// Adds a part.
    pub fn add(&mut self, part: Option<f64>) {
        self.0 = self.0.zip(part).map(|(sum, part)| sum + part);
    }

    /// The sum.
    pub fn get(self) -> Option<f64> {
        self.0
    }
}

/// What containers used together.
#[derive(Clone, Debug, Default)]
pub struct Total {
    /// The longest of the windows, ns.
    pub nanos: u64,
    cpu: Sum,
    memory: Sum,
}

impl Total {
    /// Adds a container.
    pub fn add(&mut self, window: Window<'_>) {
        self.nanos = self.nanos.max(window.nanos);
        self.cpu.add(window.grown(|sample| sample.cpu.get()).map(|grown| grown as f64 / window.nanos as f64));
        self.memory.add(window.to.memory.get().map(|bytes| bytes as f64));
    }

    /// Cores in use.
    pub fn cpu(&self) -> Option<f64> {
        self.cpu.get()
    }

    /// The working set, bytes.
    pub fn memory(&self) -> Option<f64> {
        self.memory.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_unknown_part_makes_the_sum_unknown() {
        let mut sum = Sum::default();
        sum.add(Some(1.0));
        assert_eq!(sum.get(), Some(1.0));
        sum.add(None);
        sum.add(Some(2.0));
        assert_eq!(sum.get(), None);
    }
}
