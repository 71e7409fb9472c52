//! A small map that forgets what was used least recently.

use std::collections::HashMap;

/// Keeps the `limit` most recently used values.
///
/// The search for the oldest looks at every value, which is right for the few hundred open files
/// that it is made for.
#[derive(Debug)]
pub struct Recent<V> {
    values: HashMap<u32, (V, u64)>,
    clock: u64,
    limit: usize,
}

impl<V: Clone> Recent<V> {
    /// Makes an empty map for at most `limit` values, at least one.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            values: HashMap::with_capacity(limit + 1),
            clock: 0,
            limit: limit.max(1),
        }
    }

    /// The value of `key`, which becomes the most recent.
    pub fn get(&mut self, key: u32) -> Option<V> {
        self.clock += 1;
        let (value, used) = self.values.get_mut(&key)?;
        *used = self.clock;
        Some(value.clone())
    }

    /// Adds a value and forgets the oldest if there are too many.
    pub fn insert(&mut self, key: u32, value: V) {
        self.clock += 1;
        drop(self.values.insert(key, (value, self.clock)));
        if self.values.len() > self.limit {
            let oldest = self.values.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(&key) = oldest.map(|(key, _)| key) {
                self.remove(key);
            }
        }
    }

    /// Forgets a value.
    pub fn remove(&mut self, key: u32) {
        drop(self.values.remove(&key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_is_forgotten() {
        let mut recent = Recent::new(2);
        recent.insert(1, 'a');
        recent.insert(2, 'b');
        assert_eq!(recent.get(1), Some('a'));
        recent.insert(3, 'c');
        assert_eq!(
            (recent.get(1), recent.get(2), recent.get(3)),
            (Some('a'), None, Some('c'))
        );
    }
}
