//! What is wrong at every scrape, said once until it has come right or is something else.

use std::sync::{Mutex, PoisonError};

/// What was wrong last.
#[derive(Debug, Default)]
pub(super) struct Once(Mutex<Option<String>>);

impl Once {
    /// Takes in what is wrong, if anything is, and gives it back where it is news.
    pub(super) fn news<'a>(&self, problem: Option<&'a str>) -> Option<&'a str> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_deref() == problem {
            return None;
        }
        *last = problem.map(str::to_owned);
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_said_once() {
        let once = Once::default();
        let said = [None, Some("a"), Some("a"), Some("b"), None, None, Some("b")];
        let news = said.map(|problem| once.news(problem));
        assert_eq!(news, [None, Some("a"), None, Some("b"), None, None, Some("b")]);
    }
}
