//! Medians and their uncertainty. Everything is by rank, so that one bad sample among five
//! changes little.

/// The median; none of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let (low, high) =
        (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// The least and the greatest; none of nothing.
pub fn range(values: &[f64]) -> Option<(f64, f64)> {
    let sorted = sorted(values);
    Some((*sorted.first()?, *sorted.last()?))
}

/// Resamplings of the bootstrap.
const RESAMPLINGS: usize = 2000;

/// Seed of all draws: the same values have the same interval.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// With fewer values there is no interval.
const ENOUGH: usize = 3;

/// The 95 % confidence interval of the median, by bootstrap; none with fewer than three values.
pub fn confidence(values: &[f64]) -> Option<(f64, f64)> {
    let mut state = SEED;
    let drawn = (0..RESAMPLINGS).map(|_| median_of_draw(values, &mut state));
    if values.len() < ENOUGH { None } else { interval(drawn) }
}

/// The same of the ratio of two medians, whose values were not measured together.
pub fn confidence_of_ratio(values: &[f64], others: &[f64]) -> Option<(f64, f64)> {
    let mut state = SEED;
    let drawn = (0..RESAMPLINGS)
        .map(|_| Some(median_of_draw(values, &mut state)? / median_of_draw(others, &mut state)?));
    if values.len().min(others.len()) < ENOUGH { None } else { interval(drawn) }
}

/// The median of as many values as there are, drawn with repetition.
fn median_of_draw(values: &[f64], state: &mut u64) -> Option<f64> {
    median(&values.iter().map(|_| values[draw(state, values.len())]).collect::<Vec<_>>())
}

/// The middle 95 %.
fn interval(drawn: impl Iterator<Item = Option<f64>>) -> Option<(f64, f64)> {
    let drawn = sorted(&drawn.collect::<Option<Vec<f64>>>()?);
    Some((*drawn.get(drawn.len() * 25 / 1000)?, *drawn.get(drawn.len() * 975 / 1000)?))
}

/// Jain's index of fairness: 1 if all have the same, 1/n if one has everything.
pub fn jain(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|value| value * value).sum();
    if squares > 0.0 { sum * sum / (squares * values.len() as f64) } else { 0.0 }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// xorshift64*.
fn draw(state: &mut u64, below: usize) -> usize {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ranges() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(range(&[3.0, 1.0, 2.0]), Some((1.0, 3.0)));
    }

    #[test]
    fn confidence_holds_the_median_and_ignores_one_outlier() {
        let values = [1.0, 1.1, 1.05, 0.95, 1.0, 1.02, 0.98, 9.0];
        let (low, high) = confidence(&values).unwrap();
        assert!(low <= 1.01 && (1.01..2.0).contains(&high), "{low} to {high}");
        assert_eq!(confidence(&[1.0, 2.0]), None);
        let (low, high) = confidence_of_ratio(&values, &[2.0; 5]).unwrap();
        assert!(low <= 0.505 && (0.505..1.0).contains(&high), "{low} to {high}");
        assert_eq!(confidence_of_ratio(&values, &[2.0; 2]), None);
    }

    #[test]
    fn fairness_is_one_or_less() {
        assert!((jain(&[2.0; 8]) - 1.0).abs() < 1e-9);
        assert!((jain(&[1.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
        assert!(jain(&[0.0]).abs() < 1e-9);
    }
}
