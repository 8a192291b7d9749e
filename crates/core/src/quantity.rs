//! Kubernetes quantities (`100m`, `1.5Gi`, `2e3`): exact arithmetic, and the same canonical text as the API server's.
//!
//! The rules are those of `k8s.io/apimachinery/pkg/api/resource`: what is smaller than a nano is rounded away from zero, a quantity
//! remembers the family of its suffix, and the canonical form has no fraction and the largest suffix that loses nothing.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANO: i128 = 1_000_000_000;
const MILLI: i128 = 1_000_000;

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text does not have the shape number + suffix.
    #[error("{text:?} is no quantity: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format {
        /// The text.
        text: String,
    },
    /// The suffix is not known.
    #[error("{text:?} is no quantity: unable to parse quantity's suffix {suffix:?}")]
    Suffix {
        /// The text.
        text: String,
        /// The part after the number.
        suffix: String,
    },
}

/// Family of suffixes, kept from the text a quantity was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `n u m k M G T P E`
    #[default]
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `e3`
    DecimalExponent,
}

/// A parsed quantity. Compares by value: `1Gi` equals `1024Mi`.
///
/// Values beyond ±1.7e29 are held at that bound; the API server's own types end at 9.2e18.
#[derive(Clone, Copy, Debug, Default)]
pub struct Amount {
    nano: i128,
    format: Format,
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, format: Format::DecimalSi };

    /// Nothing, in the same format, where it is less than that.
    #[must_use]
    pub fn or_zero(self) -> Self {
        Self { nano: self.nano.max(0), ..self }
    }

    /// A whole number, written with decimal suffixes.
    pub const fn whole(value: i64) -> Self {
        Self { nano: value as i128 * NANO, format: Format::DecimalSi }
    }

    /// A whole number of bytes, written with binary suffixes.
    pub const fn bytes(value: i64) -> Self {
        Self { nano: value as i128 * NANO, format: Format::BinarySi }
    }

    /// Thousandths: the unit CPU is counted in.
    pub const fn milli(value: i64) -> Self {
        Self { nano: value as i128 * MILLI, format: Format::DecimalSi }
    }

    /// Reads the API's type.
    ///
    /// # Errors
    /// When its text is not a quantity.
    pub fn of(quantity: &Quantity) -> Result<Self, QuantityError> {
        quantity.0.parse()
    }

    /// The exact value in units of 1e-9.
    pub const fn nano(self) -> i128 {
        self.nano
    }

    /// The value in thousandths, rounded away from zero, held within `i64`.
    pub fn milli_value(self) -> i64 {
        clamp(div_away(self.nano, MILLI))
    }

    /// The whole value, rounded away from zero, held within `i64`.
    pub fn value(self) -> i64 {
        clamp(div_away(self.nano, NANO))
    }

    /// Whether it is nothing.
    pub const fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// Whether it is less than nothing.
    pub const fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// The API's type, in canonical form.
    pub fn to_quantity(self) -> Quantity {
        Quantity(self.to_string())
    }

    /// How many times `divisor` it is, rounded up: what the downward API shows. A zero or absent divisor counts as one.
    ///
    /// CPU is divided in thousandths, all else in whole units, as the kubelet does.
    pub fn divided(self, divisor: Self, cpu: bool) -> i64 {
        let (value, by) = if cpu { (self.milli_value(), divisor.milli_value()) } else { (self.value(), divisor.value()) };
        let by = match by {
            0 if cpu => 1000,
            0 => 1,
            by => by,
        };
        let (value, by) = (i128::from(value), i128::from(by));
        let floor = value.div_euclid(by);
        clamp(if value.rem_euclid(by) == 0 || by < 0 { floor } else { floor + 1 })
    }

    fn with(self, nano: i128, other: Self) -> Self {
        // As upstream's Add and Sub: nothing has no family of its own.
        Self { nano, format: if self.nano == 0 { other.format } else { self.format } }
    }
}

impl std::ops::Add for Amount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.with(self.nano.saturating_add(other.nano), other)
    }
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::ops::Sub for Amount {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.with(self.nano.saturating_sub(other.nano), other)
    }
}

impl std::iter::Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, |sum, item| sum + item)
    }
}

impl PartialEq for Amount {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}
impl Eq for Amount {}
impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Amount {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

fn div_away(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by == 0 { quotient } else { quotient + value.signum() }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// The number's digits as mantissa × 10^scale; digits too many for 128 bits only raise the scale.
fn mantissa(whole: &str, fraction: &str) -> (i128, i64) {
    let (mut mantissa, mut scale, mut full) = (0_i128, 0_i64, false);
    let digits = whole.bytes().map(|d| (d, false)).chain(fraction.bytes().map(|d| (d, true)));
    for (digit, after_point) in digits {
        let next = mantissa.checked_mul(10).and_then(|m| m.checked_add(i128::from(digit - b'0')));
        match next {
            Some(next) if !full => {
                mantissa = next;
                scale -= i64::from(after_point);
            }
            _ => {
                full = true;
                scale += i64::from(!after_point);
            }
        }
    }
    (mantissa, scale)
}

/// mantissa × 10^exponent in units of 1, rounded away from zero, saturating.
fn scaled(mantissa: i128, exponent: i64) -> i128 {
    if mantissa == 0 {
        return 0;
    }
    let Ok(power) = u32::try_from(exponent.unsigned_abs()) else {
        return if exponent > 0 { i128::MAX } else { 1 };
    };
    match (10_i128.checked_pow(power), exponent >= 0) {
        (Some(factor), true) => mantissa.saturating_mul(factor),
        (None, true) => i128::MAX,
        (Some(factor), false) => div_away(mantissa, factor),
        (None, false) => 1,
    }
}

enum Scale {
    Ten(i64),
    Two(u32),
}

fn interpret(suffix: &str) -> Option<(Scale, Format)> {
    let decimal = |exponent| Some((Scale::Ten(exponent), Format::DecimalSi));
    let binary = |exponent| Some((Scale::Two(exponent), Format::BinarySi));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i64>().ok()?;
            Some((Scale::Ten(exponent), Format::DecimalExponent))
        }
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

impl FromStr for Amount {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let format_error = || QuantityError::Format { text: text.to_owned() };
        if text.is_empty() {
            return Err(format_error());
        }
        let negative = text.starts_with('-');
        let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, rest) = split_digits(rest);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => split_digits(rest),
            None => ("", rest),
        };
        // What is left must be letters, a sign, digits: anything else is not even the shape of a suffix.
        let after_letters = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
        let exponent = after_letters.strip_prefix(['-', '+']).unwrap_or(after_letters);
        if !split_digits(exponent).1.is_empty() {
            return Err(format_error());
        }
        let (scale, mut format) =
            interpret(suffix).ok_or_else(|| QuantityError::Suffix { text: text.to_owned(), suffix: suffix.to_owned() })?;

        let (mantissa, base_scale) = mantissa(whole, fraction);
        let mut nano = match scale {
            Scale::Ten(exponent) => scaled(mantissa, base_scale.saturating_add(exponent).saturating_add(9)),
            Scale::Two(exponent) => {
                // Multiply first, so that 0.5Ki stays exact; only then may the division round.
                match mantissa.checked_mul(1 << exponent) {
                    Some(product) => scaled(product, base_scale + 9),
                    None => scaled(mantissa, base_scale + 9).saturating_mul(1 << exponent),
                }
            }
        };
        if format == Format::BinarySi {
            nano = nano.min(i128::from(i64::MAX) * NANO);
            if (1..NANO).contains(&nano) {
                format = Format::DecimalSi;
            }
        }
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let kibi = 1024 * NANO;
        if self.format == Format::BinarySi && self.nano % NANO == 0 && !(-kibi < self.nano && self.nano < kibi) {
            let (mut value, mut step) = (self.nano / NANO, 0);
            while value % 1024 == 0 && step < 6 {
                value /= 1024;
                step += 1;
            }
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step];
            return write!(f, "{value}{suffix}");
        }
        let (mut value, mut exponent) = (self.nano, -9_i32);
        let most = if self.format == Format::DecimalExponent { i32::MAX } else { 18 };
        while value % 1000 == 0 && exponent < most {
            value /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{value}") } else { write!(f, "{value}e{exponent}") };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(f, "{value}{suffix}")
    }
}

#[cfg(test)]
mod tests;
