//! Figures of several runs, and how far they may be off.

/// A figure that comes of several runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Estimate {
    pub(crate) value: f64,
    /// How much more it would be by each of the runs.
    deviations: Vec<f64>,
}

impl Estimate {
    /// Without an idea of how far it is off.
    pub(crate) const fn exact(value: f64) -> Self {
        Self {
            value,
            deviations: Vec::new(),
        }
    }

    /// The mean of what single runs had.
    pub(crate) fn mean(values: &[f64]) -> Self {
        Self::ratio(values, &vec![1.0; values.len()])
    }

    /// The sum of one thing over that of another.
    pub(crate) fn ratio(of: &[f64], over: &[f64]) -> Self {
        let total: f64 = over.iter().sum();
        let (value, mean) = (of.iter().sum::<f64>() / total, total / over.len() as f64);
        let runs = of.iter().zip(over);
        Self {
            value,
            deviations: runs.map(|(of, over)| (of - value * over) / mean).collect(),
        }
    }

    /// If it were more by `more`.
    pub(crate) fn plus(mut self, more: f64) -> Self {
        self.value += more;
        self
    }

    /// How many times `other` this is, and the standard error, of two runs or more. Runs of one seed
    /// lose the same packets, so that much of what chance does to one of them it does to the other.
    pub(crate) fn over(&self, other: &Self) -> (f64, Option<f64>) {
        let ratio = self.value / other.value;
        let pairs = self.deviations.iter().zip(&other.deviations);
        let squares: f64 = pairs
            .map(|(ours, theirs)| ((ours - ratio * theirs) / other.value).powi(2))
            .sum();
        let count = self.deviations.len() as f64;
        let error = (count > 1.0).then(|| (squares / count / (count - 1.0)).sqrt());
        (ratio, error)
    }
}

/// The middle one, or between the two in the middle; not a number of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}
