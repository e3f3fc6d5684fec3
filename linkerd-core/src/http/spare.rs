//! Room for what is kept beside requests, from those that are over for those that come: to make it takes longer than to use
//! it.

use std::cell::RefCell;

use http::Extensions;

/// So many are kept in each thread; what is more is dropped.
const MOST: usize = 32;

thread_local! {
    static SPARE: RefCell<Vec<Extensions>> = const { RefCell::new(Vec::new()) };
}

/// Nothing, with room if there is any.
pub(super) fn take() -> Extensions {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps the room; what is in it is dropped.
pub(super) fn give(mut extensions: Extensions) {
    // Before the others are borrowed: it may be anybody's.
    extensions.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MOST {
            spare.push(extensions);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_a_request_but_room_and_so_much_of_it() {
        for _ in 0..2 * MOST {
            let mut extensions = Extensions::new();
            extensions.insert("a");
            give(extensions);
        }
        assert_eq!(SPARE.with_borrow(Vec::len), MOST);
        assert!((0..=MOST).all(|_| take().is_empty()));
    }
}
