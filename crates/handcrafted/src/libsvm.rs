//! Support vector regression from libsvm's text files: a model (`svm-train`) and the ranges of its features
//! (`svm-scale`).

use super::params::{ParamsError, ParamsFile};

/// Maps each feature linearly from its own range to the model's common range, without clipping.
pub(super) struct Ranges {
    target: (f64, f64),
    /// Per feature: least and greatest value in training.
    of_feature: Vec<(f64, f64)>,
}

impl Ranges {
    /// Parses `file` for `n_features` features.
    ///
    /// # Errors
    /// The file is not a range file of `svm-scale` with each feature once and in order. The error names the line.
    pub(super) fn parse(file: &ParamsFile, n_features: usize) -> Result<Self, ParamsError> {
        let mut lines = file.text()?.lines().enumerate();
        match lines.next() {
            Some((_, "x")) => {}
            found => {
                let found = found.map_or("an empty file".to_owned(), |(_, line)| quoted(line));
                return Err(file.wrong("line 1", "`x`, as in a range file of svm-scale", found));
            }
        }
        let mut target = None;
        let mut of_feature = Vec::with_capacity(n_features);
        for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |expected: &str| file.wrong(format!("line {}", index + 1), expected, quoted(line));
            let numbers: Option<Vec<f64>> = line.split_whitespace().map(|word| word.parse().ok()).collect();
            let numbers = numbers.filter(|numbers| numbers.iter().all(|number: &f64| number.is_finite()));
            match (target, numbers.as_deref()) {
                (None, Some(&[low, high])) if low < high => target = Some((low, high)),
                (None, _) => return Err(wrong("the lower and upper limit that features are scaled to")),
                (Some(_), Some(&[number, low, high])) if number == (of_feature.len() + 1) as f64 && low < high => {
                    of_feature.push((low, high));
                }
                (Some(_), _) => {
                    let number = of_feature.len() + 1;
                    return Err(wrong(&format!("feature number {number} with its least and greatest value")));
                }
            }
        }
        let target = target.ok_or_else(|| file.wrong("line 2", "two limits", "the end of the file"))?;
        if of_feature.len() != n_features {
            let found = format!("{}", of_feature.len());
            return Err(file.wrong("the whole file", format!("the ranges of {n_features} features"), found));
        }
        Ok(Self { target, of_feature })
    }

    /// `features`, scaled.
    pub(super) fn scale<const N: usize>(&self, features: &[f64; N]) -> [f64; N] {
        let (lower, upper) = self.target;
        let mut scaled = *features;
        for (value, (low, high)) in scaled.iter_mut().zip(&self.of_feature) {
            *value = lower + (upper - lower) * (*value - low) / (high - low);
        }
        scaled
    }
}

/// An epsilon-SVR with a radial basis kernel.
pub(super) struct Regression {
    gamma: f64,
    rho: f64,
    coefficients: Vec<f64>,
    /// Row-major, one row of features per support vector.
    vectors: Vec<f64>,
}

impl Regression {
    /// Parses `file` as a model over `n_features` features.
    ///
    /// # Errors
    /// The machine or kernel is of another kind, or the numbers of features or support vectors differ from the header.
    /// The error names the line.
    pub(super) fn parse(file: &ParamsFile, n_features: usize) -> Result<Self, ParamsError> {
        let mut lines = file.text()?.lines().enumerate();
        let (mut gamma, mut rho, mut n_vectors) = (None, None, None);
        let mut is_headed = false;
        for (index, line) in lines.by_ref() {
            let wrong = |expected: &str| file.wrong(format!("line {}", index + 1), expected, quoted(line));
            let (key, value) = line.split_once(' ').unwrap_or((line.trim_end(), ""));
            let number = |expected| value.trim().parse::<f64>().ok().filter(|v| v.is_finite()).ok_or(wrong(expected));
            match key {
                "SV" => {
                    is_headed = true;
                    break;
                }
                "svm_type" if value.trim() != "epsilon_svr" => return Err(wrong("`svm_type epsilon_svr`")),
                "kernel_type" if value.trim() != "rbf" => return Err(wrong("`kernel_type rbf`")),
                "gamma" => gamma = Some(number("gamma, a number")?),
                "rho" => rho = Some(number("rho, one number")?),
                "total_sv" => {
                    n_vectors = Some(value.trim().parse::<usize>().map_err(|_| wrong("the number of vectors"))?);
                }
                "svm_type" | "kernel_type" | "nr_class" | "probA" => {}
                _ => return Err(wrong("a line of a libsvm model's header")),
            }
        }
        if !is_headed {
            return Err(file.wrong("the whole file", "a libsvm model with a line `SV`", "none"));
        }
        let missing = |key: &str| file.wrong("the header", format!("`{key}`"), "no such line");
        let gamma = gamma.ok_or_else(|| missing("gamma"))?;
        let rho = rho.ok_or_else(|| missing("rho"))?;
        let n_vectors = n_vectors.ok_or_else(|| missing("total_sv"))?;
        let (mut coefficients, mut vectors) = (Vec::new(), Vec::new());
        for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let place = format!("line {}", index + 1);
            let mut words = line.split_whitespace();
            let coefficient = words.next().and_then(|word| word.parse::<f64>().ok());
            coefficients.push(coefficient.ok_or_else(|| file.wrong(&place, "a coefficient first", quoted(line)))?);
            let start = vectors.len();
            vectors.resize(start + n_features, 0.0);
            // Features of value zero may be left out. svm-scale writes the others in ascending order.
            for word in words {
                let entry = word
                    .split_once(':')
                    .and_then(|(number, value)| Some((number.parse::<usize>().ok()?, value.parse::<f64>().ok()?)));
                let expected = || format!("`number:value` with numbers 1 to {n_features}");
                let (number, value) = entry
                    .filter(|(number, value)| (1..=n_features).contains(number) && value.is_finite())
                    .ok_or_else(|| file.wrong(&place, expected(), format!("`{word}`")))?;
                vectors[start + number - 1] = value;
            }
        }
        if coefficients.len() != n_vectors {
            let found = coefficients.len().to_string();
            return Err(file.wrong("the whole file", format!("{n_vectors} support vectors"), found));
        }
        let has_last = vectors.chunks_exact(n_features).any(|vector| vector[n_features - 1] != 0.0);
        if !has_last {
            let expected = format!("support vectors with {n_features} features");
            return Err(file.wrong("the whole file", expected, "none with the last of them"));
        }
        Ok(Self { gamma, rho, coefficients, vectors })
    }

    /// `Σ coefficient · exp(-gamma |x - vector|²) - rho`.
    pub(super) fn predict<const N: usize>(&self, scaled: &[f64; N]) -> f64 {
        let (vectors, _) = self.vectors.as_chunks::<N>();
        let sum: f64 = vectors
            .iter()
            .zip(&self.coefficients)
            .map(|(vector, coefficient)| {
                let distance: f64 = vector.iter().zip(scaled).map(|(v, x)| (v - x) * (v - x)).sum();
                coefficient * (-self.gamma * distance).exp()
            })
            .sum();
        sum - self.rho
    }
}

/// The beginning of `line`, for messages.
fn quoted(line: &str) -> String {
    let head: String = line.chars().take(40).collect();
    if head.len() < line.len() { format!("`{head}…`") } else { format!("`{head}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> ParamsFile {
        ParamsFile { path: "model".into(), bytes: text.into() }
    }

    const MODEL: &str = "svm_type epsilon_svr\nkernel_type rbf\ngamma 0.5\nnr_class 2\ntotal_sv 2\nrho -3\nSV\n\
                         2 1:1 2:1 \n-1 2:3 \n";

    #[test]
    fn a_small_model_predicts_what_its_formula_says() {
        let model = Regression::parse(&file(MODEL), 2).expect("a valid model");
        // Squared distances from the vectors (1, 1) and (0, 3).
        let predicted = |a: f64, b: f64| 2.0 * (-0.5 * a).exp() - (-0.5 * b).exp() + 3.0;
        assert!((model.predict(&[0.0, 1.0]) - predicted(1.0, 4.0)).abs() < 1e-12);
        assert!((model.predict(&[1.0, 2.0]) - predicted(1.0, 2.0)).abs() < 1e-12);
    }

    #[test]
    fn models_that_are_cut_short_or_of_another_kind_are_refused_with_the_place() {
        let message = |text: &str, n_features: usize| match Regression::parse(&file(text), n_features) {
            Ok(_) => panic!("accepted: {text}"),
            Err(error) => error.to_string(),
        };
        let cut = message(&MODEL[..MODEL.len() - 8], 2);
        assert!(cut.contains("expected 2 support vectors, found 1"), "{cut}");
        let other = message(&MODEL.replace("epsilon_svr", "c_svc"), 2);
        assert!(other.contains("line 1: expected `svm_type epsilon_svr`, found `svm_type c_svc`"), "{other}");
        let fewer = message(MODEL, 3);
        assert!(fewer.contains("3 features"), "{fewer}");
        let more = message(MODEL, 1);
        assert!(more.contains("line 8") && more.contains("`2:1`"), "{more}");
        assert!(message("", 2).contains("found none"));
    }

    #[test]
    fn ranges_scale_linearly_beyond_their_ends() {
        let ranges = Ranges::parse(&file("x\n-1 1\n1 0 2\n2 10 20\n"), 2).expect("a valid file");
        assert_eq!(ranges.scale(&[3.0, 15.0]), [2.0, 0.0]);
        for (text, place) in [("x\n-1 1\n1 0 2\n", "whole file"), ("x\n-1 1\n2 0 2\n", "line 3"), ("y\n", "line 1")] {
            let error = Ranges::parse(&file(text), 2).err().expect("refused").to_string();
            assert!(error.contains(place), "{error}");
        }
    }
}
