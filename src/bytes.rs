//! Bounded reading and writing of bytes, shared by both wire formats.
//!
//! A [`Reader`] never reads past its end and never allocates by a length it has not
//! checked: a decoder built on it can be fed anything.

/// The input ended, or a number in it does not fit where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("message is truncated or malformed")
    }
}

impl core::error::Error for Malformed {}

/// A cursor over borrowed bytes.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet read.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything was read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`Malformed`] when fewer are left.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(Malformed)?;
        self.rest = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Malformed`] when fewer are left.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(Malformed)?;
        self.rest = tail;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A little-endian `u16`.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    /// A little-endian `u32`.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// A little-endian `u64`.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// A LEB128 number of at most 64 bits.
    ///
    /// # Errors
    /// [`Malformed`] at the end or when the number does not fit.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        match self.short_varint() {
            Some(value) => Ok(value),
            None => u64::try_from(self.long_varint()?).map_err(|_| Malformed),
        }
    }

    /// A LEB128 number that fits `u32`.
    ///
    /// # Errors
    /// [`Malformed`] at the end or when the number does not fit.
    #[inline]
    pub fn varint32(&mut self) -> Result<u32, Malformed> {
        let value = self.varint()?;
        u32::try_from(value).map_err(|_| Malformed)
    }

    /// A LEB128 number of at most 128 bits.
    ///
    /// # Errors
    /// [`Malformed`] at the end or when the number does not fit.
    #[inline]
    pub fn varint128(&mut self) -> Result<u128, Malformed> {
        match self.short_varint() {
            Some(value) => Ok(value.into()),
            None => self.long_varint(),
        }
    }

    /// A number of at most nine bytes, as most are: arithmetic of 128 bits is slow. `None`, and
    /// nothing is taken, for a longer one or when it does not end.
    #[inline]
    fn short_varint(&mut self) -> Option<u64> {
        let mut value: u64 = 0;
        for (at, &byte) in self.rest.iter().enumerate().take(9) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.rest = self.rest.get(at + 1..).unwrap_or_default();
                return Some(value);
            }
        }
        None
    }

    /// Any number, in three parts of at most 63 bits: only they are put together in 128.
    fn long_varint(&mut self) -> Result<u128, Malformed> {
        let mut value: u128 = 0;
        for shift in [0, 63, 126] {
            let mut part: u64 = 0;
            for at in 0..9 {
                let byte = self.u8()?;
                part |= u64::from(byte & 0x7f) << (7 * at);
                if byte & 0x80 == 0 {
                    let fits = shift < 126 || part <= 3;
                    return fits.then_some(value | u128::from(part) << shift).ok_or(Malformed);
                }
            }
            value |= u128::from(part) << shift;
        }
        Err(Malformed)
    }

    /// Bytes with a varint length before them, at most `max` of them.
    ///
    /// # Errors
    /// [`Malformed`] when longer than `max` or than what is left.
    #[inline]
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        if len > max {
            return Err(Malformed);
        }
        self.take(len)
    }
}

/// Appends a LEB128 number.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a LEB128 number of up to 128 bits.
#[inline]
pub fn put_varint128(out: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends bytes with a varint length before them, cut at `max`.
#[inline]
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8], max: usize) {
    let bytes = bytes.get(..max).unwrap_or(bytes);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The digits of a number as people write it, without the machinery of formatting.
pub fn decimal(number: u32) -> impl Iterator<Item = u8> {
    let length = number.checked_ilog10().unwrap_or(0);
    (0..=length).rev().map(move |place| b'0' + (number / 10u32.pow(place) % 10) as u8)
}

/// FNV-1a, for names of a configuration: they are not hostile.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Maps a signed difference to a small unsigned number.
#[inline]
#[must_use]
pub const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[inline]
#[must_use]
pub const fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_refuse_what_does_not_fit() {
        let mut too_wide = vec![0xff; 18];
        too_wide.push(0x07);
        assert_eq!(Reader::new(&too_wide).varint128(), Err(Malformed));
        assert_eq!(Reader::new(&[0x80; 40]).varint128(), Err(Malformed));
        assert_eq!(Reader::new(&[0x80]).varint(), Err(Malformed));
        let mut out = Vec::new();
        put_varint128(&mut out, u128::from(u64::MAX) + 1);
        assert_eq!(Reader::new(&out).varint(), Err(Malformed));
    }

    #[test]
    fn a_length_beyond_the_end_or_the_bound_is_refused() {
        assert_eq!(Reader::new(&[5, 1, 2]).bytes(10), Err(Malformed));
        assert_eq!(Reader::new(&[2, 1, 2]).bytes(1), Err(Malformed));
        assert_eq!(Reader::new(&[2, 1, 2]).bytes(2), Ok(&[1u8, 2][..]));
    }

    #[cfg(not(target_family = "wasm"))]
    mod laws {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn decimals_read_as_they_are_written(number: u32) {
                let digits: Vec<u8> = decimal(number).collect();
                prop_assert_eq!(digits, number.to_string().into_bytes());
            }

            #[test]
            fn numbers_round_trip(wide: u128, narrow: u64, signed: i64) {
                let mut out = Vec::new();
                put_varint128(&mut out, wide);
                put_varint(&mut out, narrow);
                let mut reader = Reader::new(&out);
                prop_assert_eq!(reader.varint128(), Ok(wide));
                prop_assert_eq!(reader.varint(), Ok(narrow));
                prop_assert!(reader.is_empty());
                prop_assert_eq!(unzigzag(zigzag(signed)), signed);
            }

            #[test]
            fn numbers_of_every_length_are_read_alike_by_both(wide: u128, bits in 0u32..128) {
                let mut out = Vec::new();
                let number = wide >> bits;
                put_varint128(&mut out, number);
                prop_assert_eq!(Reader::new(&out).varint128(), Ok(number));
                prop_assert_eq!(Reader::new(&out).varint(), u64::try_from(number).map_err(|_| Malformed));
            }
        }
    }
}
