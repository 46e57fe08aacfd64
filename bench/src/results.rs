//! The results of a run: [`Report`], its medians and its ratios, and its JSON file.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::drive::Sample;
use crate::options::{Options, Workload};

/// All cells of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) cores: usize,
    pub(crate) rounds: usize,
    /// Duration of one run of puts.
    pub(crate) seconds: f64,
    pub(crate) cells: Vec<Cell>,
}

/// The samples of one contender at one size by one number of tasks, one for each round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) workload: Workload,
    pub(crate) bytes: usize,
    pub(crate) tasks: usize,
    pub(crate) contender: String,
    samples: Vec<Sample>,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            rounds: options.rounds,
            seconds: options.seconds,
            cells: Vec::new(),
        }
    }

    pub(crate) fn load(path: &Path) -> Self {
        let json = fs::read(path).expect("the file of results exists");
        serde_json::from_slice(&json).expect("the file holds results")
    }

    pub(crate) fn save(&self, path: &Path) {
        let json = serde_json::to_string(self).expect("results have a JSON form");
        // A line for each cell, so that a diff is readable.
        let json = json.replace("{\"workload\"", "\n{\"workload\"") + "\n";
        fs::write(path, json).expect("the file of results is writable");
    }

    /// Replaces the cells that `newer` has measured too.
    pub(crate) fn merged(mut self, newer: Self) -> Self {
        for cell in newer.cells {
            match self.cells.iter_mut().find(|old| old.is_same(&cell)) {
                Some(old) => *old = cell,
                None => self.cells.push(cell),
            }
        }
        self
    }

    pub(crate) fn add(
        &mut self,
        workload: Workload,
        bytes: usize,
        tasks: usize,
        contender: &str,
        sample: Sample,
    ) {
        let added = Cell {
            workload,
            bytes,
            tasks,
            contender: contender.to_owned(),
            samples: vec![sample],
        };
        match self.cells.iter_mut().find(|cell| cell.is_same(&added)) {
            Some(cell) => cell.samples.extend(added.samples),
            None => self.cells.push(added),
        }
    }

    /// Returns the sizes and numbers of tasks of a workload, in order.
    pub(crate) fn groups(&self, workload: Workload) -> Vec<(usize, usize)> {
        let cells = self.cells.iter().filter(|cell| cell.workload == workload);
        let mut groups: Vec<_> = cells.map(|cell| (cell.bytes, cell.tasks)).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    pub(crate) fn cell(
        &self,
        workload: Workload,
        (bytes, tasks): (usize, usize),
        contender: &str,
    ) -> Option<&Cell> {
        self.cells.iter().find(|cell| {
            (cell.workload, cell.bytes, cell.tasks) == (workload, bytes, tasks)
                && cell.contender == contender
        })
    }
}

impl Cell {
    fn is_same(&self, other: &Self) -> bool {
        self.workload == other.workload
            && (self.bytes, self.tasks) == (other.bytes, other.tasks)
            && self.contender == other.contender
    }

    /// Returns the median of a figure.
    pub(crate) fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(figure).collect())
    }

    /// Returns the median of a figure that not every system has.
    pub(crate) fn median_of_some(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        let figures: Vec<_> = self.samples.iter().filter_map(figure).collect();
        (!figures.is_empty()).then(|| median(figures))
    }

    pub(crate) fn mb_per_s(&self) -> f64 {
        self.median(|sample| sample.ops_per_s) * self.bytes as f64 / 1e6
    }

    /// Returns the median of the ratios of a figure to that of another cell, round by round.
    pub(crate) fn ratio(&self, other: &Self, figure: impl Fn(&Sample) -> f64) -> f64 {
        let pairs = self.samples.iter().zip(&other.samples);
        median(pairs.map(|(a, b)| figure(a) / figure(b)).collect())
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 {
        figures[middle]
    } else {
        (figures[middle - 1] + figures[middle]) / 2.0
    }
}
