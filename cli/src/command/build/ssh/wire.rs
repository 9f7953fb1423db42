//! Values as SSH writes them (RFC 4251, section 5), in messages to an agent and in key files.

/// Reads values one after the other; `None`: what is there is none.
pub struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    /// From the beginning of these bytes.
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    /// So many bytes as they are.
    pub fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// `byte`
    pub fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// `uint32`
    pub fn number(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// `string`
    pub fn string(&mut self) -> Option<&'b [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    /// `mpint` that is not negative, without zeros in front.
    pub fn integer(&mut self) -> Option<&'b [u8]> {
        let bytes = self.string()?;
        if bytes.first().is_some_and(|first| first & 0x80 != 0) {
            return None;
        }
        Some(without_zeros(bytes))
    }
}

/// A number's bytes without zeros in front.
pub fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// Writes values one after the other.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `byte`
    pub fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// `uint32`
    pub fn number(&mut self, number: u32) {
        self.bytes.extend(number.to_be_bytes());
    }

    /// `string`
    pub fn string(&mut self, bytes: &[u8]) {
        self.number(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.bytes.extend(bytes);
    }

    /// `mpint` of a number that is not negative.
    pub fn integer(&mut self, bytes: &[u8]) {
        let bytes = without_zeros(bytes);
        match bytes.first() {
            Some(first) if first & 0x80 != 0 => self.string(&[&[0], bytes].concat()),
            _ => self.string(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_was_written() {
        let mut writer = Writer::default();
        writer.byte(7);
        writer.number(0x0102_0304);
        writer.string(b"text");
        writer.integer(&[0, 0, 0x80]);
        writer.integer(&[0]);
        assert_eq!(&writer.bytes()[13..], [0, 0, 0, 2, 0, 0x80, 0, 0, 0, 0]);
        let mut reader = Reader::new(writer.bytes());
        assert_eq!((reader.byte(), reader.number()), (Some(7), Some(0x0102_0304)));
        assert_eq!(reader.string(), Some(&b"text"[..]));
        assert_eq!(reader.integer(), Some(&[0x80][..]));
        assert_eq!(reader.integer(), Some(&[][..]));
        assert_eq!(reader.byte(), None);
        assert_eq!(Reader::new(&[0, 0, 0, 1, 0x80]).integer(), None, "negative");
        assert_eq!(Reader::new(&[0, 0, 0, 9, 1]).string(), None, "cut off");
    }
}
