//! A `/metrics` page, read as a scraper would read it.

/// Every value of the label `result` of `claygate_callbacks_total`. Dashboards and alerts rely on them.
pub const CALLBACK_RESULTS: [&str; 11] = [
    "accepted",
    "duplicate",
    "recorded",
    "spooled",
    "quarantined",
    "conflict",
    "unauthorized",
    "malformed",
    "too_large",
    "throttled",
    "unavailable",
];

/// A rendered page in the text exposition format.
#[derive(Clone, Debug)]
pub struct MetricsPage(String);

impl MetricsPage {
    /// The page as it came.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The series of this project and their values, in the page's order.
    ///
    /// # Panics
    /// When a line is not a series and its value.
    pub fn series(&self) -> Vec<(&str, f64)> {
        let ours = self.0.lines().filter(|line| line.starts_with("claygate_"));
        ours.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value in {line:?}"));
            (series, value.parse().unwrap_or_else(|error| panic!("{line:?}: {error}")))
        })
        .collect()
    }

    /// Whether there is a series of the metric `name`, histograms' `_bucket`, `_sum` and `_count` included.
    pub fn has(&self, name: &str) -> bool {
        let of_it = |series: &str| {
            series.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['{', '_']))
        };
        self.series().iter().any(|(series, _)| of_it(series))
    }

    /// The sum over the series of `name` that have all of these labels; `None`: there is no such series.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let of_it = |series: &str| {
            let rest = series.strip_prefix(name)?;
            let inside = rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            let told: Vec<&str> = if rest.is_empty() { Vec::new() } else { inside?.split(',').collect() };
            labels.iter().all(|label| told.contains(&label.as_str())).then_some(())
        };
        let found = self.series().into_iter().filter(|(series, _)| of_it(series).is_some()).map(|(_, value)| value);
        found.reduce(|sum, value| sum + value)
    }
}

impl std::fmt::Display for MetricsPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
