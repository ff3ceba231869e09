//! Counters under CoreDNS's names, and their text form for Prometheus. Whoever counts declares its [`Family`] as a
//! static beside the code that counts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// Upper bounds of times in seconds (`plugin/plugin.go`, `TimeBuckets`).
const TIMES: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048,
    4.096, 8.192,
];
/// A few upper bounds of times in seconds (`SlimTimeBuckets`).
const SLIM_TIMES: &[f64] = &[0.00025, 0.0025, 0.025, 0.25, 2.5];
/// Upper bounds of messages' sizes in octets.
const SIZES: &[f64] =
    &[0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16e3, 32e3, 48e3, 64e3];

/// Labels of a series, as they are written: `server="dns://:53",zone="."`.
pub type Labels = Arc<str>;

/// A server block's labels (`server="…",zone="…",view="…"`) with something else for the zone: `zones`, and which;
/// without one where `label` is empty.
pub fn relabelled(labels: &str, label: &str, value: &str) -> String {
    let ends = labels.find(",zone=\"").zip(labels.rfind(",view=\""));
    let (server, view) = ends.map_or((labels, ""), |(zone, view)| (&labels[..zone], &labels[view..]));
    if label.is_empty() { format!("{server}{view}") } else { format!("{server},{label}=\"{value}\"{view}") }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
    /// Upper bounds.
    Histogram(&'static [f64]),
}

/// A metric's name, what it says, and how it counts.
#[derive(Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
}

impl Family {
    /// A number that only grows.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Family { name, help, kind: Kind::Counter }
    }

    /// A number that is looked up when somebody asks.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Family { name, help, kind: Kind::Gauge }
    }

    /// Times in seconds, by CoreDNS's bounds.
    pub const fn times(name: &'static str, help: &'static str) -> Self {
        Family { name, help, kind: Kind::Histogram(TIMES) }
    }

    /// Times in seconds, by a few bounds.
    pub const fn slim_times(name: &'static str, help: &'static str) -> Self {
        Family { name, help, kind: Kind::Histogram(SLIM_TIMES) }
    }

    /// Sizes in octets, by CoreDNS's bounds.
    pub const fn sizes(name: &'static str, help: &'static str) -> Self {
        Family { name, help, kind: Kind::Histogram(SIZES) }
    }

    fn fresh(&self) -> Series {
        match self.kind {
            Kind::Histogram(bounds) => {
                Series::Histogram { buckets: vec![0; bounds.len()], count: 0, sum: 0.0 }
            }
            Kind::Counter | Kind::Gauge => Series::Number(0.0),
        }
    }
}

#[derive(Clone, Debug)]
enum Series {
    Number(f64),
    Histogram { buckets: Vec<u64>, count: u64, sum: f64 },
}

/// A series that was looked up, so that it need not be again.
#[derive(Clone, Copy, Debug)]
pub struct Handle(&'static Family, usize);

/// The same place is the same series.
impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        self.1 == other.1
    }
}
impl Eq for Handle {}

/// A family's series, by labels: their places.
type Places = (Option<&'static Family>, BTreeMap<Labels, usize>);

/// Everything counted.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    families: BTreeMap<&'static str, Places>,
    /// None is ever taken out.
    series: Vec<Series>,
}

impl Metrics {
    fn series(&mut self, family: &'static Family, labels: &str) -> Option<&mut Series> {
        let Handle(_, at) = self.handle(family, labels);
        self.series.get_mut(at)
    }

    /// Where a series is. It stays there.
    pub fn handle(&mut self, family: &'static Family, labels: &str) -> Handle {
        let (known, places) = self.families.entry(family.name).or_default();
        *known = Some(family);
        if let Some(at) = places.get(labels) {
            return Handle(family, *at);
        }
        let at = self.series.len();
        self.series.push(family.fresh());
        places.insert(labels.into(), at);
        Handle(family, at)
    }

    /// Counts one.
    pub fn count(&mut self, family: &'static Family, labels: &str) {
        self.add(family, labels, 1.0);
    }

    /// Adds to a counter or a gauge; to a histogram: takes a measurement, in seconds or octets.
    pub fn add(&mut self, family: &'static Family, labels: &str, value: f64) {
        let handle = self.handle(family, labels);
        self.add_at(handle, value);
    }

    /// The same for a series that was looked up.
    pub fn add_at(&mut self, Handle(family, at): Handle, value: f64) {
        match (self.series.get_mut(at), family.kind) {
            (Some(Series::Number(number)), _) => *number += value,
            (Some(Series::Histogram { buckets, count, sum }), Kind::Histogram(bounds)) => {
                if let Some(at) = bounds.iter().position(|bound| value <= *bound) {
                    buckets[at] += 1;
                }
                *count += 1;
                *sum += value;
            }
            _ => {}
        }
    }

    /// Takes the same measurement so many times, in seconds or octets.
    pub fn repeat(&mut self, family: &'static Family, labels: &str, value: f64, times: u64) {
        if let (Some(Series::Histogram { buckets, count, sum }), Kind::Histogram(bounds)) =
            (self.series(family, labels), family.kind)
        {
            if let Some(at) = bounds.iter().position(|bound| value <= *bound) {
                buckets[at] += times;
            }
            *count += times;
            *sum += value * times as f64;
        }
    }

    /// Sets a gauge, whatever it said.
    pub fn set(&mut self, family: &'static Family, labels: &str, value: f64) {
        if let Some(Series::Number(number)) = self.series(family, labels) {
            *number = value;
        }
    }

    /// Takes a time.
    pub fn time(&mut self, family: &'static Family, labels: &str, time: Duration) {
        self.add(family, labels, time.as_secs_f64());
    }

    /// Prometheus's text form.
    pub fn render(&self, out: &mut String) {
        for (name, (family, places)) in &self.families {
            let Some(family) = family else { continue };
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", family.help);
            for (labels, at) in places {
                let Some(series) = self.series.get(*at) else { continue };
                let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
                match (series, family.kind) {
                    (Series::Histogram { buckets, count, sum }, Kind::Histogram(bounds)) => {
                        let (mut so_far, comma) = (0, if labels.is_empty() { "" } else { "," });
                        for (bound, n) in bounds.iter().zip(buckets) {
                            so_far += n;
                            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {so_far}");
                        }
                        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
                        let _ = writeln!(out, "{name}_sum{braces} {sum}\n{name}_count{braces} {count}");
                    }
                    (Series::Number(number), _) => {
                        let _ = writeln!(out, "{name}{braces} {number}");
                    }
                    (Series::Histogram { .. }, _) => {}
                }
            }
        }
    }
}
