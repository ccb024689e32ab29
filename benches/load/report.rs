//! The figures, each beside what it has to reach.

use serde_json::json;

/// All figures so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
    failures: Vec<String>,
}

/// One figure.
#[derive(Debug)]
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    target: Option<f64>,
}

impl Report {
    /// Notes a figure, and prints it at once.
    pub(crate) fn figure(
        &mut self,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        target: Option<f64>,
    ) {
        let figure = Figure { what: what.into(), value, unit, target };
        println!("{}", figure.line());
        self.figures.push(figure);
    }

    /// Says that the sums of what was just measured were right.
    pub(crate) fn counted(&self, what: &str) {
        println!("  counted: {what}");
    }

    /// Says why something is not measured.
    pub(crate) fn skipped(&self, why: &str) {
        println!("  skipped: {why}");
    }

    /// Notes that a scenario broke off.
    pub(crate) fn failed(&mut self, scenario: &str, error: &anyhow::Error) {
        println!("  FAILED {scenario}: {error:#}");
        self.failures.push(format!("{scenario}: {error:#}"));
    }

    /// Whether every sum was right.
    pub(crate) fn is_sound(&self) -> bool {
        self.failures.is_empty()
    }

    /// Prints all figures as a table and as a line of JSON.
    pub(crate) fn print(&self) {
        println!();
        for figure in &self.figures {
            println!("{}", figure.line());
        }
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
        let figures: Vec<_> = self
            .figures
            .iter()
            .map(|figure| {
                json!({"what": figure.what, "value": round(figure.value), "unit": figure.unit, "target": figure.target})
            })
            .collect();
        println!("{}", json!({"load": figures, "failures": self.failures}));
    }
}

impl Figure {
    fn line(&self) -> String {
        let Self { what, value, unit, target } = self;
        let beside = target.map_or_else(String::new, |target| {
            format!("   target {target:>6.1}   ratio {:.2}", value / target)
        });
        format!("{what:<68} {value:>8.2} {unit:<10}{beside}").trim_end().to_owned()
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
