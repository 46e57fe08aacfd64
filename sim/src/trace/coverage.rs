//! Coverage: counters of events that must happen in some runs. If an event never happens, the
//! simulator does not test its consequences.

use std::collections::BTreeMap;
use std::fmt;

/// Counters, ordered by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    /// Increments a counter.
    pub(crate) fn count(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// Adds to a counter.
    pub(crate) fn add(&mut self, name: &'static str, times: u64) {
        *self.0.entry(name).or_default() += times;
    }

    /// Returns the value of a counter.
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Adds the counters of another run.
    pub fn merge(&mut self, other: &Self) {
        other
            .0
            .iter()
            .for_each(|(name, times)| self.add(name, *times));
    }

    /// Iterates over all counters.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(name, times)| (*name, *times))
    }

    /// Returns the expected counters that are zero.
    pub fn missing<'a>(&self, expected: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        expected
            .into_iter()
            .filter(|name| self.of(name) == 0)
            .collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.keys().map(|name| name.len()).max().unwrap_or(0);
        for (name, times) in &self.0 {
            writeln!(f, "  {name:<width$}  {times:>9}")?;
        }
        Ok(())
    }
}
