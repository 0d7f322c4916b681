//! Stop strings: text that ends an answer and is never shown, not even a part of it.

/// Lets text through that cannot become part of a stop string, and holds back the rest until it is decided.
#[derive(Debug, Default)]
pub(super) struct StopFilter {
    stops: Vec<String>,
    /// A suffix of the text so far that is a proper prefix of some stop string.
    held: String,
}

impl StopFilter {
    /// Watches for `stops`; empty ones are ignored.
    pub(super) fn new(stops: &[String]) -> StopFilter {
        StopFilter { stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Whether `text` itself is a stop string.
    pub(super) fn is_stop(&self, text: &str) -> bool {
        self.stops.iter().any(|s| s == text)
    }

    /// Takes the next `text` and returns what may be shown, and whether a stop string is complete.
    ///
    /// The stop string that is complete first counts (of several that end together, the longest), so the result does not depend on
    /// how the text is cut into pieces.
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        let mut all = std::mem::take(&mut self.held);
        let old = all.len();
        all.push_str(text);
        for (i, c) in text.char_indices() {
            let seen = &all[..old + i + c.len_utf8()];
            if let Some(stop) = self.stops.iter().filter(|s| seen.ends_with(s.as_str())).max_by_key(|s| s.len()) {
                all.truncate(seen.len() - stop.len());
                return (all, true);
            }
        }
        let undecided = |from: &usize| self.stops.iter().any(|s| s.starts_with(&all[*from..]));
        let hold = all.char_indices().map(|(i, _)| i).find(undecided).unwrap_or(all.len());
        self.held = all.split_off(hold);
        (all, false)
    }

    /// The text ends here: what was held back.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed<'a>(stops: &[String], pieces: impl Iterator<Item = &'a str>) -> (String, bool) {
        let mut filter = StopFilter::new(stops);
        let mut out = String::new();
        for piece in pieces {
            let (text, stopped) = filter.push(piece);
            out += &text;
            if stopped {
                return (out, true);
            }
        }
        (out + &filter.finish(), false)
    }

    #[test]
    fn parts_of_stop_strings_are_held_back_until_decided() {
        let mut filter = StopFilter::new(&["STOP".into(), String::new()]);
        assert_eq!(filter.push("a S"), ("a ".into(), false));
        assert_eq!(filter.push("T"), (String::new(), false));
        assert_eq!(filter.push("ST"), ("ST".into(), false));
        assert_eq!(filter.push("OPx"), (String::new(), true));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter_and_no_stop_string_shows(
            text in "[abé]{0,24}",
            stops in proptest::collection::vec("[abé]{1,4}", 0..4),
            cut in 1usize..5,
        ) {
            let chars: Vec<String> = text.chars().map(String::from).collect();
            let pieces: Vec<String> = chars.chunks(cut).map(|c| c.concat()).collect();
            let (out, stopped) = feed(&stops, pieces.iter().map(String::as_str));
            prop_assert_eq!(&(out.clone(), stopped), &feed(&stops, std::iter::once(text.as_str())));
            prop_assert_eq!(stopped, stops.iter().any(|s| text.contains(s.as_str())));
            prop_assert!(text.starts_with(&out));
            prop_assert!(stops.iter().all(|s| !out.contains(s.as_str())));
            if !stopped {
                prop_assert_eq!(out, text);
            }
        }
    }
}
