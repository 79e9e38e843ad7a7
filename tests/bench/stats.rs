//! Medians and the like.

/// The value below which `share` (0 to 1) of all lie, by nearest rank. NaN of nothing.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => f64::NAN,
        _ if n % 2 == 1 => sorted[n / 2],
        _ => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The median of the ratios of values measured in the same round, which is steadier than the ratio
/// of medians when the machine's pace changes from round to round.
pub fn paired(values: &[f64], beside: &[f64]) -> f64 {
    let ratios: Vec<f64> = values.iter().zip(beside).map(|(a, b)| a / b).collect();
    median(&ratios)
}

/// `median [least-most]`
pub fn spread(values: &[f64], digits: usize) -> String {
    let least = values.iter().copied().fold(f64::NAN, f64::min);
    let most = values.iter().copied().fold(f64::NAN, f64::max);
    format!(
        "{:.digits$} [{least:.digits$}-{most:.digits$}]",
        median(values)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middle_and_ranks() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert!((median(&values) - 3.0).abs() < 1e-9);
        assert!((median(&values[..4]) - 3.0).abs() < 1e-9);
        assert!((quantile(&values, 0.5) - 3.0).abs() < 1e-9);
        assert!((quantile(&values, 0.99) - 5.0).abs() < 1e-9);
        assert!((quantile(&values, 0.01) - 1.0).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn rounds_are_compared_before_the_middle_is_taken() {
        // Half as fast in every round, whatever the round's own pace.
        assert!((paired(&[1.0, 20.0, 3.0], &[2.0, 40.0, 6.0]) - 0.5).abs() < 1e-9);
        assert_eq!(spread(&[2.0, 1.0, 3.0], 1), "2.0 [1.0-3.0]");
    }
}
