//! Metrics against reference numbers and against what they promise for every input.

use std::path::Path;

use agiqa_judge::metrics::{self, BootstrapSettings, MetricsError};
use agiqa_store::metric::{Estimates, Metric};
use proptest::prelude::*;
use serde_json::Value;

use crate::testdir::{reference, shared};

/// Compares a metric with the reference's, where null means undefined.
#[track_caller]
fn assert_near(what: &str, found: Option<f64>, expected: &Value, tolerance: f64) {
    match (found, expected.as_f64()) {
        (None, None) => assert!(expected.is_null(), "{what}: the reference has no such value"),
        (Some(found), Some(expected)) => {
            assert!((found - expected).abs() <= tolerance, "{what}: found {found}, expected {expected} ± {tolerance}")
        }
        (found, expected) => panic!("{what}: found {found:?}, expected {expected:?}"),
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(|value| value.as_f64().expect("a number")).collect()
}

fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

#[test]
fn metrics_equal_scipys_on_every_case() {
    assert_eq!(compare(&reference("metrics.json")), 14);
}

#[test]
fn metrics_equal_the_published_ones_on_every_case() {
    let Some(path) = shared("parity/metrics/cases.json") else { return };
    assert_eq!(compare(&path), 18);
}

/// Compares every case in the file; returns how many there are.
fn compare(path: &Path) -> usize {
    let document: Value = serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON");
    let cases = document["cases"].as_array().expect("cases");
    for case in cases {
        let name = case["name"].as_str().expect("a name");
        let (scores, mos) = (numbers(&case["pred"]), numbers(&case["label"]));
        let found = metrics::evaluate(&scores, &mos, None).expect("finite and paired");
        let what = |metric: &str| format!("{name}: {metric}");
        for (metric, value, single) in [
            ("srcc", found[Metric::Srcc].value, metrics::srcc(&scores, &mos)),
            ("plcc", found[Metric::PlccRaw].value, metrics::plcc(&scores, &mos)),
            ("krcc", found[Metric::Krcc].value, metrics::krcc(&scores, &mos)),
            ("rmse", found[Metric::RmseRaw].value, metrics::rmse(&scores, &mos)),
        ] {
            assert_near(&what(metric), value, &case["raw"][metric], 1e-10);
            assert_eq!(value, single, "{}", what(metric));
        }
        let official = &case["logistic4_official"];
        // The reference fits four samples and five, which says nothing of scores: four parameters fit them whatever they are.
        if official["rmse"].is_null() || scores.len() < 6 {
            assert_eq!(
                (found[Metric::Plcc].value, found[Metric::Rmse].value),
                (None, None),
                "{name}: below six samples"
            );
            assert_eq!(metrics::fit_logistic4(&scores, &mos), None, "{name}: below six samples");
            continue;
        }
        if official["required"] == Value::Bool(false) {
            continue;
        }
        let plcc_tolerance = official["tolerance"]["plcc"].as_f64().expect("a tolerance");
        let relative = official["tolerance"]["rmse_relative_to_label_std"].as_f64().expect("a tolerance");
        let rmse_tolerance = relative * deviation(&mos);
        assert_near(&what("mapped plcc"), found[Metric::Plcc].value, &official["plcc"], plcc_tolerance);
        assert_near(&what("mapped rmse"), found[Metric::Rmse].value, &official["rmse"], rmse_tolerance);
        // The reference's search may have stopped on its way down. Ours may not stop above it.
        let (rmse, theirs) = (found[Metric::Rmse].value.expect("checked"), official["rmse"].as_f64().expect("checked"));
        assert!(rmse <= theirs + 1e-9, "{name}: rmse {rmse} is above the reference's {theirs}");
        if official["params_well_determined"] == Value::Bool(true) {
            let fit = metrics::fit_logistic4(&scores, &mos).expect("enough samples");
            let relative = official["tolerance"]["params_relative"].as_f64().expect("a tolerance");
            for (found, expected) in [fit.b1, fit.b2, fit.b3, fit.b4].into_iter().zip(numbers(&official["params"])) {
                let near = (found - expected).abs() <= relative * expected.abs().max(0.1);
                assert!(near, "{name}: {fit:?}, expected {}", official["params"]);
            }
        }
    }
    cases.len()
}

#[test]
fn the_fitted_curve_has_the_error_that_is_reported() {
    let mos = [1.0, 1.4, 2.5, 2.2, 3.9, 4.4, 4.2, 4.6];
    let scores = [10.0, 22.0, 31.0, 38.0, 50.0, 61.0, 72.0, 88.0];
    let fit = metrics::fit_logistic4(&scores, &mos).expect("enough samples");
    let mapped = scores.map(|score| fit.map(score));
    let found = metrics::evaluate(&scores, &mos, None).expect("finite and paired");
    let near = |a: Option<f64>, b: Option<f64>| (a.expect("defined") - b.expect("defined")).abs() < 1e-9;
    assert!(near(found[Metric::Rmse].value, metrics::rmse(&mapped, &mos)));
    assert!(near(found[Metric::Plcc].value, metrics::plcc(&mapped, &mos)));
}

#[test]
fn a_value_that_is_not_finite_is_refused_by_its_position() {
    let error = metrics::evaluate(&[1.0, 2.0, f64::NAN], &[1.0, 2.0, 3.0], None).expect_err("a NaN");
    assert_eq!(error.to_string(), "the score at position 2 (from 0): expected a finite number, found NaN");
    let error = metrics::evaluate(&[1.0, 2.0], &[f64::NEG_INFINITY, 2.0], None).expect_err("an infinity");
    assert_eq!(error.to_string(), "the MOS at position 0 (from 0): expected a finite number, found -inf");
    let error = metrics::evaluate(&[1.0], &[], None).expect_err("not paired");
    assert_eq!(error, MetricsError::Length { n_scores: 1, n_mos: 0 });
    assert_eq!(metrics::srcc(&[1.0, f64::NAN], &[1.0, 2.0]), None);
}

#[test]
fn undefined_metrics_are_none_and_have_no_interval() {
    let settings = BootstrapSettings::default();
    let empty = metrics::evaluate(&[], &[], Some(&settings)).expect("nothing is not wrong");
    assert_eq!(empty, Estimates::default());
    // 0.1 + 0.2 summed ten times has a mean that differs from it by rounding.
    let constant = metrics::evaluate(&[0.1 + 0.2; 10], &[1., 2., 3., 4., 5., 6., 7., 8., 9., 10.], Some(&settings));
    let constant = constant.expect("finite and paired");
    for undefined in [constant[Metric::Srcc], constant[Metric::Krcc], constant[Metric::Plcc], constant[Metric::PlccRaw]]
    {
        assert_eq!((undefined.value, undefined.low, undefined.high), (None, None, None));
    }
    // The best constant is the mean MOS; its error is the MOS' own spread, √8.25.
    assert!((constant[Metric::Rmse].value.expect("defined") - 8.25_f64.sqrt()).abs() < 1e-12);
    assert!(constant[Metric::Rmse].low.is_some() && constant[Metric::RmseRaw].low.is_some());
    let one = metrics::evaluate(&[1.0], &[2.0], Some(&settings)).expect("finite and paired");
    assert_eq!(one[Metric::RmseRaw].value, Some(1.0));
    assert_eq!((one[Metric::RmseRaw].low, one[Metric::Srcc].value, one[Metric::Rmse].value), (None, None, None));
}

#[test]
fn huge_and_tiny_values_neither_overflow_nor_vanish() {
    for scale in [1e300, 1e-300] {
        let xs = [1.0, 2.0, 3.0, 4.0, 6.0].map(|x| x * scale);
        let ys = [2.0, 1.0, 4.0, 3.0, 5.0];
        let plain = metrics::plcc(&[1.0, 2.0, 3.0, 4.0, 6.0], &ys).expect("defined");
        assert!((metrics::plcc(&xs, &ys).expect("defined") - plain).abs() < 1e-12);
        assert!(metrics::rmse(&xs, &[0.0; 5]).expect("defined") > 0.0);
    }
    // A large offset must not eat the digits of a small spread.
    let offset = [1e9, 1e9 + 1.0, 1e9 + 2.0, 1e9 + 3.0];
    assert!((metrics::plcc(&offset, &[0.0, 1.0, 2.0, 3.0]).expect("defined") - 1.0).abs() < 1e-12);
}

#[test]
fn intervals_do_not_depend_on_the_number_of_threads() {
    let (scores, mos) = correlated(200, 5);
    let settings = BootstrapSettings { resamples: 200, seed: 3 };
    let with_threads = |n_threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads");
        pool.install(|| metrics::evaluate(&scores, &mos, Some(&settings)).expect("finite and paired"))
    };
    assert_eq!(with_threads(1), with_threads(3));
    let other_seed = BootstrapSettings { seed: 4, ..settings };
    let other = metrics::evaluate(&scores, &mos, Some(&other_seed)).expect("finite and paired");
    assert_ne!(with_threads(1)[Metric::Srcc].low, other[Metric::Srcc].low);
}

#[test]
fn intervals_are_as_wide_as_theory_says() {
    let (scores, mos) = correlated(800, 1);
    let found = metrics::evaluate(&scores, &mos, Some(&BootstrapSettings::default())).expect("finite and paired");
    // For a bivariate normal sample: Fisher's z of Pearson's correlation has the variance 1 / (n - 3).
    let z = found[Metric::PlccRaw].value.expect("defined").atanh();
    let half_width = 1.96 / 797.0_f64.sqrt();
    let expected = (z + half_width).tanh() - (z - half_width).tanh();
    for estimate in [found[Metric::PlccRaw], found[Metric::Plcc], found[Metric::Srcc]] {
        let (low, high) = (estimate.low.expect("defined"), estimate.high.expect("defined"));
        assert!(low < estimate.value.expect("defined") && estimate.value.expect("defined") < high);
        assert!((0.75..1.35).contains(&((high - low) / expected)), "{estimate:?}, expected a width of {expected}");
    }
}

/// Scores and MOS of a bivariate normal distribution with correlation 0.8 (sums of twelve uniforms, less six).
fn correlated(n: usize, seed: u64) -> (Vec<f64>, Vec<f64>) {
    let mut random = rand_mt::Mt64::new(seed);
    let mut normal =
        move || (0..12).map(|_| (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64).sum::<f64>() - 6.0;
    (0..n)
        .map(|_| {
            let score = normal();
            (score, 0.8 * score + 0.6 * normal())
        })
        .unzip()
}

/// Tau-b by its definition, over all pairs.
fn krcc_of_all_pairs(xs: &[f64], ys: &[f64]) -> Option<f64> {
    let (mut difference, mut untied_x, mut untied_y) = (0_i64, 0_i64, 0_i64);
    for i in 0..xs.len() {
        for j in 0..i {
            let sign = |a: f64, b: f64| i64::from(a > b) - i64::from(a < b);
            let (x, y) = (sign(xs[i], xs[j]), sign(ys[i], ys[j]));
            difference += x * y;
            untied_x += x.abs();
            untied_y += y.abs();
        }
    }
    let scale = (untied_x as f64 * untied_y as f64).sqrt();
    (scale > 0.0).then(|| difference as f64 / scale)
}

/// Pairs on a coarse grid (many ties) or a fine one (hardly any).
fn pairs(range: std::ops::Range<usize>) -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
    let value = prop_oneof![(-4_i32..4).prop_map(|v| f64::from(v) / 2.0), -100.0..100.0_f64];
    proptest::collection::vec((value.clone(), value), range).prop_map(|pairs| pairs.into_iter().unzip())
}

fn close(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() < 1e-9,
        (a, b) => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn krcc_is_the_definition_over_all_pairs((xs, ys) in pairs(0..60)) {
        prop_assert!(close(metrics::krcc(&xs, &ys), krcc_of_all_pairs(&xs, &ys)));
    }

    #[test]
    fn srcc_is_plcc_of_average_ranks((xs, ys) in pairs(0..60)) {
        let (x_ranks, y_ranks) = (metrics::average_ranks(&xs), metrics::average_ranks(&ys));
        prop_assert!(close(metrics::srcc(&xs, &ys), metrics::plcc(&x_ranks, &y_ranks)));
    }

    #[test]
    fn srcc_and_krcc_ignore_increasing_maps((xs, ys) in pairs(0..60)) {
        let mapped: Vec<f64> = xs.iter().map(|x| (x / 50.0).exp() - 3.0).collect();
        prop_assert_eq!(metrics::srcc(&mapped, &ys), metrics::srcc(&xs, &ys));
        prop_assert_eq!(metrics::krcc(&mapped, &ys), metrics::krcc(&xs, &ys));
    }

    #[test]
    fn plcc_ignores_increasing_affine_maps((xs, ys) in pairs(0..60), factor in 0.01..100.0_f64, offset in -50.0..50.0_f64) {
        let mapped: Vec<f64> = xs.iter().map(|x| factor * x + offset).collect();
        prop_assert!(close(metrics::plcc(&mapped, &ys), metrics::plcc(&xs, &ys)));
    }

    #[test]
    fn correlations_are_symmetric_and_turn_their_sign_with_an_input((xs, ys) in pairs(0..60)) {
        let turned: Vec<f64> = xs.iter().map(|x| -x).collect();
        for metric in [metrics::srcc, metrics::plcc, metrics::krcc] {
            prop_assert!(close(metric(&xs, &ys), metric(&ys, &xs)));
            prop_assert!(close(metric(&xs, &ys), metric(&turned, &ys).map(|value| -value)));
        }
    }

    #[test]
    fn whatever_the_input_values_are_in_range_and_no_mapping_is_worse_than_a_constant((xs, ys) in pairs(0..60)) {
        let found = metrics::evaluate(&xs, &ys, Some(&BootstrapSettings { resamples: 20, seed: 1 })).expect("finite and paired");
        for estimate in [found[Metric::Srcc], found[Metric::Krcc], found[Metric::Plcc], found[Metric::PlccRaw]] {
            for value in [estimate.value, estimate.low, estimate.high].into_iter().flatten() {
                prop_assert!((-1.0..=1.0).contains(&value));
            }
        }
        if let Some(rmse) = found[Metric::Rmse].value {
            prop_assert!(rmse <= deviation(&ys) * (1.0 + 1e-9));
            prop_assert!(found[Metric::Plcc].value.is_none_or(|plcc| plcc >= found[Metric::PlccRaw].value.unwrap_or(0.0).abs() - 1e-5));
        }
        prop_assert_eq!(found[Metric::Rmse].value.is_some(), xs.len() >= 6);
    }
}
