//! Figures, their bars, and the table that shows them.

use serde_json::{Value, json};

/// Which of the measured values is held against the bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    Median,
    P99,
}

/// One row. Everything in one unit: milliseconds or megabytes (10^6 bytes).
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    bar: Option<(f64, Judged)>,
    /// Sorted.
    samples: Vec<f64>,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, mut samples: Vec<f64>) -> Figure {
        samples.sort_by(f64::total_cmp);
        Figure { name: name.into(), unit, bar: None, samples }
    }

    /// At most `bar`, by the given statistic.
    pub(crate) fn bar(mut self, bar: f64, judged: Judged) -> Figure {
        self.bar = Some((bar, judged));
        self
    }

    fn median(&self) -> f64 {
        quantile(&self.samples, 0.5)
    }

    fn p99(&self) -> f64 {
        quantile(&self.samples, 0.99)
    }

    fn min(&self) -> f64 {
        quantile(&self.samples, 0.0)
    }

    /// The bar and what is held against it; `None` for figures without one and for those that were not measured.
    fn judged(&self) -> Option<(f64, f64)> {
        let (bar, judged) = self.bar.filter(|_| !self.samples.is_empty())?;
        let measured = match judged {
            Judged::Median => self.median(),
            Judged::P99 => self.p99(),
        };
        Some((bar, measured))
    }

    /// Whether the bar is met; `None` for figures without one.
    pub(crate) fn met(&self) -> Option<bool> {
        self.bar?;
        Some(self.judged().is_some_and(|(bar, measured)| measured <= bar))
    }

    fn cells(&self) -> [String; 7] {
        let bar = match self.bar {
            None => String::new(),
            Some((bar, _)) if self.samples.len() == 1 => format!("{bar} {}", self.unit),
            Some((bar, Judged::Median)) => format!("{bar} {} median", self.unit),
            Some((bar, Judged::P99)) => format!("{bar} {} p99", self.unit),
        };
        let word = match self.met() {
            None => "",
            Some(true) => "met",
            Some(false) if self.samples.is_empty() => "NOT MEASURED",
            Some(false) => "MISSED",
        };
        let number = |value: f64| format!("{value:.2}");
        let count = self.samples.len().to_string();
        [
            self.name.clone(),
            bar,
            number(self.min()),
            number(self.median()),
            number(self.p99()),
            count,
            word.to_owned(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "figure": self.name, "unit": self.unit, "count": self.samples.len(),
            "bar": self.bar.map(|(bar, _)| bar),
            "judged": self.bar.map(|(_, judged)| match judged { Judged::Median => "median", Judged::P99 => "p99" }),
            "min": self.min(), "median": self.median(), "p99": self.p99(),
            "met": self.met(),
        })
    }
}

/// The value that at least `q` of the samples do not exceed (nearest rank); 0 of none.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// A finished run.
pub(crate) struct Report {
    pub(crate) machine: Value,
    pub(crate) figures: Vec<Figure>,
    pub(crate) notes: Vec<String>,
    /// Everything that was to be measured was.
    pub(crate) complete: bool,
}

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let head = ["figure (ms, MB)", "bar", "min", "median", "p99", "n", ""].map(str::to_owned);
        let rows: Vec<[String; 7]> =
            std::iter::once(head).chain(self.figures.iter().map(Figure::cells)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..7).map(width).collect();
        let mut text = format!("{}\n\n", machine_line(&self.machine));
        for row in &rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                // Numbers stand right, words left.
                line += &if (2..6).contains(&column) {
                    format!("{cell:>width$}  ")
                } else {
                    format!("{cell:width$}  ")
                };
            }
            text += line.trim_end();
            text.push('\n');
        }
        for note in &self.notes {
            text += &format!("\n{note}");
        }
        text
    }

    /// For scripts.
    pub(crate) fn json(&self) -> Value {
        json!({
            "machine": self.machine,
            "figures": self.figures.iter().map(Figure::json).collect::<Vec<_>>(),
            "notes": self.notes, "complete": self.complete,
        })
    }

    pub(crate) fn all_met(&self) -> bool {
        self.complete && self.figures.iter().all(|figure| figure.met() != Some(false))
    }
}

fn machine_line(machine: &Value) -> String {
    let text = |key: &str| machine[key].as_str().unwrap_or_default().to_owned();
    format!(
        "{} cores, Linux {}, load before {} and after {} (one minute); binary {}",
        machine["cores"],
        text("kernel"),
        text("loadBefore"),
        text("loadAfter"),
        text("binary")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measured_values() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|q| quantile(&hundred, q)), [1.0, 50.0, 99.0, 100.0]);
        assert_eq!(quantile(&[3.0, 4.0], 0.99), 4.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn the_bar_holds_for_the_statistic_that_it_names() {
        let samples = || vec![1.0, 2.0, 9.0];
        let figure = |judged| Figure::new("x", "ms", samples()).bar(5.0, judged);
        assert_eq!(figure(Judged::Median).met(), Some(true));
        assert_eq!(figure(Judged::P99).met(), Some(false));
        assert_eq!(Figure::new("x", "ms", vec![]).bar(5.0, Judged::P99).met(), Some(false));
        assert_eq!(Figure::new("x", "ms", samples()).met(), None);
    }
}
