//! The name that a misspelt one was meant to be.

/// Below this resemblance a suggestion is a guess.
const LEAST_RESEMBLANCE: f64 = 0.5;

/// The shortest name that is looked for inside of others.
const SHORTEST_PIECE: usize = 3;

/// The candidate that resembles `word` most, if any does. Upper and lower case are the same here.
///
/// A candidate resembles the word if at most half of its letters are wrong, missing, superfluous or swapped, or if one
/// of the two contains the other. Of equals, the first in the alphabet is taken.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (resemblance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(resemblance, _)| *resemblance >= LEAST_RESEMBLANCE)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, candidate)| candidate)
}

/// `; did you mean …?` if one of the candidates resembles `word`, else nothing.
pub fn question<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// The names that exist, and a question if one of them resembles `word`: ``a, b, c; did you mean `b`?``, or `none`.
pub fn choices<'a>(word: &str, names: impl IntoIterator<Item = &'a str> + Clone) -> String {
    let listed = names.clone().into_iter().collect::<Vec<_>>().join(", ");
    format!("{}{}", if listed.is_empty() { "none" } else { &listed }, question(word, names))
}

/// From 0 for nothing in common to 1 for equal.
fn resemblance(a: &str, b: &str) -> f64 {
    let edited = strsim::normalized_damerau_levenshtein(a, b);
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if short.len() < SHORTEST_PIECE || !long.contains(short) {
        return edited;
    }
    let share = short.len() as f64 / long.len() as f64;
    edited.max(LEAST_RESEMBLANCE + (1.0 - LEAST_RESEMBLANCE) * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapped_missing_and_superfluous_letters_are_seen_through() {
        assert_eq!(nearest("mso", ["mos_std", "mos", "name"]), Some("mos"));
        assert_eq!(nearest("imagse", ["splits", "images", "metrics"]), Some("images"));
        assert_eq!(nearest("epocs", ["epochs", "lr", "batch"]), Some("epochs"));
        assert_eq!(question("Genrator", ["generator"]), "; did you mean `generator`?");
        assert_eq!(choices("mso", ["mos", "name"]), "mos, name; did you mean `mos`?");
        assert_eq!(choices("mso", []), "none");
    }

    #[test]
    fn a_name_is_found_by_a_piece_of_it() {
        assert_eq!(nearest("image", ["image_file_name", "mos_quality"]), Some("image_file_name"));
        assert_eq!(
            nearest("module.encoder.blocks.0.weight", ["head.bias", "blocks.0.weight"]),
            Some("blocks.0.weight")
        );
    }

    #[test]
    fn a_strange_name_gets_no_suggestion() {
        assert_eq!(nearest("warmup_steps", ["epochs", "lr", "batch"]), None);
        assert_eq!(question("warmup_steps", []), "");
    }

    #[test]
    fn of_equals_the_first_in_the_alphabet_is_taken() {
        assert_eq!(nearest("f_x", ["f_b", "f_a"]), Some("f_a"));
    }
}
