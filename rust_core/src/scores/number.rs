//! Digits eight at a time, and floats that are exactly what `str::parse::<f32>` gives.

/// Eight bytes at `at`, zeros where there are none.
#[inline(always)]
fn load(data: &[u8], at: usize) -> u64 {
    if let Some(bytes) = data.get(at..at + 8) {
        return u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    }
    let mut bytes = [0; 8];
    let rest = data.get(at..).unwrap_or(&[]);
    bytes[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(bytes)
}

const POWERS: [u64; 16] = {
    let mut powers = [1; 16];
    let mut i = 1;
    while i < 16 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// The number that the first 0 to 8 digits at `at` make, and how many they are; without a branch on how many.
#[inline(always)]
fn digits(data: &[u8], at: usize) -> (u64, usize) {
    let bytes = load(data, at) ^ 0x3030_3030_3030_3030;
    // A byte's top bit is set where it isn't a digit: 0x76 carries 10..=127 over, larger ones have it already.
    let others = (((bytes & 0x7f7f_7f7f_7f7f_7f7f) + 0x7676_7676_7676_7676) | bytes) & 0x8080_8080_8080_8080;
    let count = (others.trailing_zeros() / 8) as usize;
    // Digits move to the high end, zeros lead. The shift is split, since one by 64 isn't defined.
    let aligned = (bytes << (32 - 4 * count)) << (32 - 4 * count);
    let pairs = aligned.wrapping_mul(10).wrapping_add(aligned >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    (low.wrapping_add(high) >> 32, count)
}

/// A plain decimal id of 1 to 15 digits at `at`, and where it ends; `None` sends the caller to the general way.
#[inline(always)]
pub(super) fn id(data: &[u8], at: usize) -> Option<(u64, usize)> {
    let (mut value, mut count) = digits(data, at);
    if count == 8 {
        let (rest, more) = digits(data, at + 8);
        if more == 8 {
            return None;
        }
        value = value * POWERS[more] + rest;
        count += more;
    }
    let leading_zero = data.get(at) == Some(&b'0') && count > 1;
    (count > 0 && !leading_zero).then_some((value, at + count))
}

/// The common floats, `-?[0-9]{1,7}(\.[0-9]{0,15})?`, at `at`, and where they end; `None` sends the caller to the general way.
///
/// Exact: digits and power of ten are exact in f64, so their quotient is the correctly rounded f64 `d`. Rounding `d` to f32 gives
/// the same as rounding the true value, unless `d` lies just between two f32 (rounding up to `d` may have hidden the side). Those go the
/// general way; so do subnormal f32, whose borders lie elsewhere.
#[inline(always)]
pub(super) fn float(data: &[u8], at: usize) -> Option<(f32, usize)> {
    let negative = data.get(at) == Some(&b'-');
    let start = at + usize::from(negative);
    let (whole, num_whole) = digits(data, start);
    if num_whole == 0 || num_whole == 8 {
        return None;
    }
    let mut end = start + num_whole;
    let (mut significand, mut num_fraction) = (whole, 0);
    if data.get(end) == Some(&b'.') {
        let (mut fraction, mut count) = digits(data, end + 1);
        if count == 8 {
            let (rest, more) = digits(data, end + 9);
            if more == 8 {
                return None;
            }
            fraction = fraction * POWERS[more] + rest;
            count += more;
        }
        if num_whole + count > 19 {
            return None;
        }
        // At most 19 digits: below 2^64.
        significand = whole * POWERS[count] + fraction;
        num_fraction = count;
        end += 1 + count;
    }
    if significand > 1 << 53 {
        return None;
    }
    let magnitude = significand as f64 / POWERS[num_fraction] as f64;
    const DROPPED: u64 = (1 << 29) - 1;
    let between = magnitude.to_bits() & DROPPED == 1 << 28;
    if between || (magnitude < f64::from(f32::MIN_POSITIVE) && significand != 0) {
        return None;
    }
    Some((if negative { -magnitude as f32 } else { magnitude as f32 }, end))
}

/// A whole field as a float: what `str::parse::<f32>` gives, infinities and NaN included.
pub fn parse_f32(field: &[u8]) -> Option<f32> {
    match float(field, 0) {
        Some((value, end)) if end == field.len() => Some(value),
        _ => std::str::from_utf8(field).ok()?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn same(text: &str) -> bool {
        parse_f32(text.as_bytes()).map(f32::to_bits) == text.parse::<f32>().ok().map(f32::to_bits)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn floats_are_exact(text in "[-+]?[0-9]{0,9}(\\.[0-9]{0,20})?(e-?[0-9]{1,2})?") {
            prop_assert!(same(&text), "{text}");
        }

        #[test]
        fn floats_near_the_middle_of_two_are_exact(bits in 0x3000_0000u32..0x4900_0000, off in -2i64..3, places in 0usize..16) {
            let (low, high) = (f64::from(f32::from_bits(bits)), f64::from(f32::from_bits(bits + 1)));
            let middle = f64::from_bits((((low + high) / 2.0).to_bits() as i64 + off) as u64);
            for text in [format!("{middle:.places$}"), format!("-{middle}"), format!("{middle:.20}")] {
                prop_assert!(same(&text), "{text}");
            }
        }

        #[test]
        fn anything_else_is_as_in_std(text in "\\PC{0,12}") {
            prop_assert!(same(&text), "{text}");
        }

        #[test]
        fn ids_are_read_to_their_end(value in 0u64..1_000_000_000_000_000, tail in "[^0-9]{0,9}") {
            let text = format!("{value}{tail}");
            prop_assert_eq!(id(text.as_bytes(), 0), Some((value, text.len() - tail.len())));
        }
    }

    #[test]
    fn odd_ids_go_the_general_way() {
        for text in ["", "01", "-1", "x", "1234567890123456"] {
            assert_eq!(id(text.as_bytes(), 0), None, "{text}");
        }
    }
}
