//! "Did you mean": the closest of a few known words.

/// The candidate that is close enough to be a slip of the pen, nearest first in the candidates' order.
pub fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let word = fold(word);
    let tolerance = (word.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &fold(candidate)), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Help for a word that is none of the candidates: the closest one, or all of them.
pub fn help<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str> + Clone, what: &str) -> String {
    if let Some(closest) = closest(word, candidates.clone()) {
        return format!("did you mean `{closest}`?");
    }
    let all: Vec<String> = candidates.into_iter().map(|candidate| format!("`{candidate}`")).collect();
    if all.is_empty() { format!("there is no {what}") } else { format!("the {what} here: {}", all.join(", ")) }
}

fn fold(word: &str) -> Vec<char> {
    word.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Edits to get from one word to the other, a swap of neighbours being one (optimal string alignment).
#[expect(clippy::indexing_slicing, reason = "rows are one longer than `b`, and every index comes from a position in it")]
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let mut best = (above[j] + usize::from(ca != cb)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_its_word() {
        let keys = ["https", "http", "plain_http", "trusted_proxies"];
        for (word, expected) in [
            ("htps", Some("https")),
            ("HTTP", Some("http")),
            ("plain-http", Some("plain_http")),
            ("trusted_proxise", Some("trusted_proxies")),
            ("ports", None),
            ("x", None),
        ] {
            assert_eq!(closest(word, keys), expected, "{word}");
        }
    }

    #[test]
    fn help_lists_what_there_is_when_nothing_is_close() {
        assert_eq!(help("q", ["one", "two"], "values"), "the values here: `one`, `two`");
        assert_eq!(help("q", [], "upstream"), "there is no upstream");
    }
}
