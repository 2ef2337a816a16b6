//! What the API server said, for a while: a bounded number of answers.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Answers by question.
pub(crate) struct Remembered<K, V> {
    answers: Mutex<HashMap<K, (Instant, V)>>,
    most: usize,
}

impl<K: Eq + Hash, V: Clone> Remembered<K, V> {
    /// None yet, and never more than `most`: a flood of made-up questions must not fill the memory.
    pub(crate) fn new(most: usize) -> Self {
        Self { answers: Mutex::default(), most }
    }

    /// The last answer to a question, if it is younger than `holds` says of it.
    pub(crate) fn get<Q>(&self, question: &Q, holds: impl Fn(&V) -> Duration) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let answers = self.lock();
        let (at, answer) = answers.get(question)?;
        (at.elapsed() < holds(answer)).then(|| answer.clone())
    }

    /// Keeps an answer, as long as there is room for it beside those that still hold.
    pub(crate) fn keep(&self, question: K, answer: V, holds: impl Fn(&V) -> Duration) {
        let mut answers = self.lock();
        if answers.len() >= self.most {
            answers.retain(|_, (at, answer)| at.elapsed() < holds(answer));
        }
        if answers.len() < self.most || answers.contains_key(&question) {
            answers.insert(question, (Instant::now(), answer));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, (Instant, V)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn answers_hold_for_as_long_as_they_say_and_no_flood_takes_their_place() {
        let remembered = Remembered::new(2);
        let holds = |answer: &u8| if *answer == 0 { Duration::ZERO } else { LONG };
        remembered.keep("yes".to_owned(), 1, holds);
        remembered.keep("no".to_owned(), 0, holds);
        assert_eq!((remembered.get("yes", holds), remembered.get("no", holds)), (Some(1), None));
        remembered.keep("more".to_owned(), 2, holds);
        assert_eq!(remembered.get("more", holds), Some(2), "in the place of what holds no more");
        remembered.keep("too many".to_owned(), 3, holds);
        assert_eq!(remembered.get("too many", holds), None);
        remembered.keep("yes".to_owned(), 4, holds);
        assert_eq!(remembered.get("yes", holds), Some(4));
    }
}
