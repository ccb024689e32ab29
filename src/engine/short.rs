//! Comparing texts that are short, as names, keys and most of their values are, without a call: the call costs more than that.

/// Whether two texts are equal.
#[inline]
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    match one.len() {
        0 => true,
        // The first, the middle, the last: one of them twice or thrice where there are fewer.
        len @ 1..=3 => [0, len / 2, len - 1].into_iter().all(|at| one[at] == other[at]),
        4..=7 => ends_are_same::<4>(one, other),
        8..=15 => ends_are_same::<8>(one, other),
        16..=32 => ends_are_same::<16>(one, other),
        _ => one == other,
    }
}

/// Whether the first and the last bytes are equal, so many each: all of them where there are twice as many at most.
#[inline]
fn ends_are_same<const BYTES: usize>(one: &[u8], other: &[u8]) -> bool {
    one.first_chunk::<BYTES>() == other.first_chunk() && one.last_chunk::<BYTES>() == other.last_chunk()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_every_length_are_the_same_only_if_every_byte_is() {
        for len in 0..100 {
            let one = "x".repeat(len);
            assert!(is_same(&one, &one.clone()));
            assert!(!is_same(&one, &format!("{one}x")) && !is_same(&format!("{one}x"), &one));
            for at in 0..len {
                let mut other = one.clone();
                other.replace_range(at..=at, "y");
                assert!(!is_same(&one, &other), "{len} {at}");
            }
        }
    }
}
