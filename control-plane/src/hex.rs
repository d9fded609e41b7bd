//! Bytes as hexadecimal digits.

/// Two digits a byte, small letters.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same of the first `most` bytes: a name for what has such a digest.
pub(crate) fn short(bytes: &[u8], most: usize) -> String {
    hex(bytes.get(..most).unwrap_or(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_two_digits() {
        assert_eq!(hex(&[0, 9, 0xab, 0xff]), "0009abff");
        assert_eq!((short(&[1, 2, 3], 2), short(&[1], 2)), ("0102".to_owned(), "01".to_owned()));
    }
}
