//! Header blocks: names and values, compressed by one zlib stream per direction for the whole connection.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;
use crate::error::ProtocolError;
use crate::limits::Limits;

/// The headers of a stream, as sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of a header; names have no case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        // Several values of one name are joined by NUL.
        value.split('\0').next()
    }

    fn parse(mut block: &[u8], limits: &Limits) -> Result<Self, ProtocolError> {
        let count = number(&mut block)?;
        if count > limits.headers {
            return Err(ProtocolError::HeadersTooLarge { limit: limits.header_block, headers: limits.headers });
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            headers.push((text(&mut block)?, text(&mut block)?));
        }
        Ok(Self(headers))
    }
}

fn number(block: &mut &[u8]) -> Result<usize, ProtocolError> {
    let (number, rest) = block.split_first_chunk::<4>().ok_or(ProtocolError::HeadersMalformed)?;
    *block = rest;
    usize::try_from(u32::from_be_bytes(*number)).map_err(|_| ProtocolError::HeadersMalformed)
}

fn text(block: &mut &[u8]) -> Result<String, ProtocolError> {
    let length = number(block)?;
    let (text, rest) = block.split_at_checked(length).ok_or(ProtocolError::HeadersMalformed)?;
    *block = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Reads header blocks. It must be given every block of the connection in order, also those of streams that are refused.
pub(crate) struct Inflater(Decompress);

impl Inflater {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(crate) fn inflate(&mut self, block: &[u8], limits: &Limits) -> Result<Headers, ProtocolError> {
        let mut plain = Vec::with_capacity(1024);
        let mut rest = block;
        loop {
            if plain.len() > limits.header_block {
                return Err(ProtocolError::HeadersTooLarge { limit: limits.header_block, headers: limits.headers });
            }
            if plain.len() == plain.capacity() {
                plain.reserve(plain.len());
            }
            let (read, written) = (self.0.total_in(), plain.len());
            let result = self.0.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            let read = usize::try_from(self.0.total_in() - read).unwrap_or(rest.len());
            rest = &rest[read..];
            match result {
                Ok(Status::Ok | Status::BufError) => {
                    let full = plain.len() == plain.capacity();
                    let moved = read > 0 || plain.len() > written;
                    if !full && (rest.is_empty() || !moved) {
                        break;
                    }
                }
                Ok(Status::StreamEnd) => return Err(ProtocolError::HeaderCompression),
                Err(error) => {
                    error.needs_dictionary().ok_or(ProtocolError::HeaderCompression)?;
                    self.0.set_dictionary(DICTIONARY).map_err(|_| ProtocolError::HeaderCompression)?;
                }
            }
        }
        Headers::parse(&plain, limits)
    }
}

/// Writes header blocks.
pub(crate) struct Deflater {
    stream: Compress,
    primed: bool,
}

impl Default for Deflater {
    fn default() -> Self {
        // A level and a window of its own would save memory, but the blocks of this side are empty: four zero bytes.
        Self { stream: Compress::new(Compression::fast(), true), primed: false }
    }
}

impl Deflater {
    pub(crate) fn deflate(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, flate2::CompressError> {
        if !self.primed {
            self.stream.set_dictionary(DICTIONARY)?;
            self.primed = true;
        }
        let mut plain = Vec::new();
        let number = |plain: &mut Vec<u8>, number: usize| plain.extend(u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
        number(&mut plain, headers.len());
        for (name, value) in headers {
            for text in [name, value] {
                number(&mut plain, text.len());
                plain.extend(text.as_bytes());
            }
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let mut rest = &plain[..];
        loop {
            let before = self.stream.total_in();
            self.stream.compress_vec(rest, &mut block, FlushCompress::Sync)?;
            rest = &rest[usize::try_from(self.stream.total_in() - before).unwrap_or(rest.len())..];
            // A flush is complete once it leaves room.
            if rest.is_empty() && block.len() < block.capacity() {
                return Ok(block);
            }
            block.reserve(256);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(count: usize) -> Vec<(String, String)> {
        (0..count).map(|n| (format!("name-{n}"), format!("value {n} {}", "x".repeat(n % 50)))).collect()
    }

    fn borrowed(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
        pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    #[test]
    fn the_dictionary_is_that_of_go() {
        // Adler-32 of moby/spdystream's copy.
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in DICTIONARY {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        assert_eq!((b << 16) | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_of_one_connection_inflate_in_order() {
        let (mut deflater, mut inflater, limits) = (Deflater::default(), Inflater::new(), Limits::default());
        for count in [0, 2, 0, 64, 1, 3] {
            let pairs = pairs(count);
            let block = deflater.deflate(&borrowed(&pairs)).unwrap();
            assert_eq!(inflater.inflate(&block, &limits).unwrap(), Headers(pairs));
        }
    }

    #[test]
    fn a_block_that_was_left_out_is_noticed() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::new());
        deflater.deflate(&[("streamtype", "error")]).unwrap();
        let second = deflater.deflate(&[("streamtype", "data")]).unwrap();
        assert_eq!(inflater.inflate(&second, &Limits::default()), Err(ProtocolError::HeaderCompression));
    }

    #[test]
    fn what_inflates_beyond_the_limits_is_refused() {
        let bomb = "0".repeat(1_000_000);
        let block = Deflater::default().deflate(&[("a", &bomb)]).unwrap();
        assert!(block.len() < 64 * 1024);
        let limits = Limits::default();
        let error = Inflater::new().inflate(&block, &limits).unwrap_err();
        assert_eq!(error, ProtocolError::HeadersTooLarge { limit: limits.header_block, headers: limits.headers });

        let pairs = pairs(65);
        let block = Deflater::default().deflate(&borrowed(&pairs)).unwrap();
        assert!(Inflater::new().inflate(&block, &limits).is_err());
    }

    #[test]
    fn the_first_of_several_values_counts_and_names_have_no_case() {
        let headers = Headers(vec![("StreamType".into(), "data\0error".into())]);
        assert_eq!(headers.get("streamtype"), Some("data"));
        assert_eq!(headers.get("port"), None);
    }
}
