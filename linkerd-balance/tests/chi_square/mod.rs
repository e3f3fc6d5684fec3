//! Pearson's test of whether counts follow weights.

use std::iter;

/// How likely counts are that differ from what the weights say by as much as these do, or more. From 0 to 1.
pub(crate) fn p_value(seen: &[u32], weights: &[f64]) -> f64 {
    let (picks, total) = (f64::from(seen.iter().sum::<u32>()), weights.iter().sum::<f64>());
    let term = |(seen, weight): (&u32, &f64)| {
        let expected = picks * weight / total;
        (f64::from(*seen) - expected).powi(2) / expected
    };
    let chi_square: f64 = seen.iter().zip(weights).map(term).sum();
    upper_gamma((seen.len() - 1) as f64 / 2.0, chi_square / 2.0)
}

/// The regularized upper incomplete gamma function, for `a` a multiple of one half: one minus the series of the lower one,
/// the sum of xⁿ e⁻ˣ / Γ(n + 1) for n = a, a + 1, ...
fn upper_gamma(a: f64, x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    // So far out it is zero, and the first terms of the series are too small for a float.
    if x > 500.0 {
        return 0.0;
    }
    let start = if a.fract() == 0.0 { 0.0 } else { -0.5 };
    // Γ(1) is 1, Γ(1/2) the root of π.
    let gamma = if a.fract() == 0.0 { 1.0 } else { std::f64::consts::PI.sqrt() };
    let next = |(n, term): (f64, f64)| (n + 1.0, term * x / (n + 1.0));
    let terms = iter::successors(Some((start, x.powf(start) * (-x).exp() / gamma)), |term| Some(next(*term)));
    let lower: f64 = terms.skip_while(|(n, _)| *n < a).take(2_000).map(|(_, term)| term).sum();
    (1.0 - lower).clamp(0.0, 1.0)
}

#[test]
fn the_p_value_is_that_of_the_tables() {
    // Percentage points of chi-square, for one, two, five, six and thirty degrees of freedom.
    for (df, chi_square, p) in
        [(1.0, 6.635, 0.01), (2.0, 9.210, 0.01), (5.0, 15.086, 0.01), (6.0, 12.592, 0.05), (30.0, 50.892, 0.01)]
    {
        let q = upper_gamma(df / 2.0, chi_square / 2.0);
        assert!((q / p - 1.0).abs() < 1e-3, "{q} is not {p}");
    }
    assert!(p_value(&[501, 500], &[1.0, 1.0]) > 0.97);
    assert_eq!(p_value(&[500, 500], &[1.0, 1.0]), 1.0);
    assert_eq!(p_value(&[100_000, 1], &[1.0, 1.0]), 0.0);
    assert!(p_value(&[600, 400], &[1.0, 1.0]) < 1e-6);
}
