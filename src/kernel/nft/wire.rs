//! Netlink framing: writes messages and attributes into one buffer and parses them from untrusted bytes.
//!
//! A message is `struct nlmsghdr` (16 bytes, host order), `struct nfgenmsg` (4 bytes, its `res_id` in network order),
//! attributes. An attribute is its length and type (2 bytes each, host order), a payload, and padding to 4 bytes;
//! netfilter's integers are in network order. Reading never trusts a length.

use thiserror::Error;

/// The bits of an attribute's type that hold its number; the two bits above are `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;
const MESSAGE_HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;

/// Bytes that violate netlink's framing, or a payload of the wrong size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("malformed netlink {what}")]
pub struct Malformed {
    /// What could not be read.
    pub what: &'static str,
}

/// An attribute that would exceed the 65,535 bytes its length can express.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an attribute is longer than netlink allows (65,535 bytes)")]
pub struct AttributeTooLong;

/// One message, not yet decoded.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernel) struct Message<'a> {
    /// `nlmsg_type`: the subsystem in the upper byte, the message in the lower.
    pub(in crate::kernel) kind: u16,
    /// `nlmsg_flags`
    pub(in crate::kernel) flags: u16,
    /// `nlmsg_seq`
    pub(in crate::kernel) sequence: u32,
    /// Everything behind `nlmsghdr`.
    pub(in crate::kernel) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The message type, if it is of this subsystem.
    pub(in crate::kernel) fn of_subsystem(&self, subsystem: u16) -> Option<u8> {
        let [low, high] = self.kind.to_le_bytes();
        (u16::from(high) == subsystem).then_some(low)
    }

    /// `nfgen_family` and the attributes.
    pub(in crate::kernel) fn netfilter(&self) -> Result<(u8, &'a [u8]), Malformed> {
        match self.body {
            [family, _version, _, _, attributes @ ..] => Ok((*family, attributes)),
            _ => Err(Malformed { what: "netfilter header" }),
        }
    }
}

/// The messages in a datagram, in order. Parsing ends at the first malformed one.
pub(in crate::kernel) struct Messages<'a>(pub(in crate::kernel) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let message = parse_message(self.0);
        self.0 = match &message {
            Ok(message) => self.0.get(align(MESSAGE_HEADER + message.body.len())..).unwrap_or(&[]),
            Err(_) => &[],
        };
        Some(message)
    }
}

fn parse_message(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let malformed = Malformed { what: "message" };
    let length = host_u32(bytes.get(..4).ok_or(malformed)?)? as usize;
    let body = bytes.get(MESSAGE_HEADER..length).ok_or(malformed)?;
    Ok(Message {
        kind: host_u16(bytes.get(4..6).ok_or(malformed)?)?,
        flags: host_u16(bytes.get(6..8).ok_or(malformed)?)?,
        sequence: host_u32(bytes.get(8..12).ok_or(malformed)?)?,
        body,
    })
}

/// The attributes in a payload, in order: type (without its two flag bits) and payload.
pub(in crate::kernel) struct Attributes<'a>(pub(in crate::kernel) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let attribute = parse_attribute(self.0);
        self.0 = match &attribute {
            Ok((_, payload)) => self.0.get(align(4 + payload.len())..).unwrap_or(&[]),
            Err(_) => &[],
        };
        Some(attribute)
    }
}

fn parse_attribute(bytes: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    let malformed = Malformed { what: "attribute" };
    let length = host_u16(bytes.get(..2).ok_or(malformed)?)?;
    let kind = host_u16(bytes.get(2..4).ok_or(malformed)?)? & TYPE_MASK;
    let payload = bytes.get(4..usize::from(length)).ok_or(malformed)?;
    Ok((kind, payload))
}

/// The payload of the first attribute of this type.
pub(in crate::kernel) fn find(attributes: &[u8], kind: u16) -> Result<Option<&[u8]>, Malformed> {
    for attribute in Attributes(attributes) {
        let (found, payload) = attribute?;
        if found == kind {
            return Ok(Some(payload));
        }
    }
    Ok(None)
}

/// The 32-bit number, in network order, of the first attribute of this type.
pub(in crate::kernel) fn find_u32(attributes: &[u8], kind: u16) -> Result<Option<u32>, Malformed> {
    find(attributes, kind)?.map(network_u32).transpose()
}

/// The text, ended by a NUL, of the first attribute of this type.
pub(in crate::kernel) fn find_text(attributes: &[u8], kind: u16) -> Result<Option<&str>, Malformed> {
    find(attributes, kind)?.map(text).transpose()
}

/// A 32-bit number in network order.
pub(in crate::kernel) fn network_u32(payload: &[u8]) -> Result<u32, Malformed> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_| Malformed { what: "32-bit number" })
}

/// A 64-bit number in network order.
pub(super) fn network_u64(payload: &[u8]) -> Result<u64, Malformed> {
    payload.try_into().map(u64::from_be_bytes).map_err(|_| Malformed { what: "64-bit number" })
}

/// A 32-bit number in host order, as marks are in registers and in messages' headers.
pub(super) fn host_u32(payload: &[u8]) -> Result<u32, Malformed> {
    payload.try_into().map(u32::from_ne_bytes).map_err(|_| Malformed { what: "32-bit number" })
}

fn host_u16(payload: &[u8]) -> Result<u16, Malformed> {
    payload.try_into().map(u16::from_ne_bytes).map_err(|_| Malformed { what: "16-bit number" })
}

/// Text up to its first NUL, or to the end where there is none.
pub(super) fn text(payload: &[u8]) -> Result<&str, Malformed> {
    let end = payload.iter().position(|byte| *byte == 0).unwrap_or(payload.len());
    std::str::from_utf8(&payload[..end]).map_err(|_| Malformed { what: "text" })
}

/// The length including netlink's padding.
pub(super) fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Writes messages one behind the other.
#[derive(Debug, Default)]
pub(in crate::kernel) struct Writer {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Writer {
    /// One message: `attributes` writes what follows its two headers. `resource` is `res_id`: a batch's subsystem, else
    /// 0.
    pub(in crate::kernel) fn message(
        &mut self,
        (kind, flags, sequence): (u16, u16, u32),
        (family, resource): (u8, u16),
        attributes: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        // The sender's port, which the kernel fills in.
        self.bytes.extend_from_slice(&[0; 4]);
        let [high, low] = resource.to_be_bytes();
        self.bytes.extend_from_slice(&[family, 0, high, low]);
        debug_assert_eq!(self.bytes.len() - start, MESSAGE_HEADER + NETFILTER_HEADER);
        attributes(self);
        match u32::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
    }

    /// An attribute with these bytes.
    pub(in crate::kernel) fn bytes(&mut self, kind: u16, payload: &[u8]) {
        self.attribute(kind, |writer| writer.bytes.extend_from_slice(payload));
    }

    /// An attribute with a 32-bit number in network order.
    pub(in crate::kernel) fn number(&mut self, kind: u16, number: u32) {
        self.bytes(kind, &number.to_be_bytes());
    }

    /// An attribute with text and the NUL that ends it.
    pub(in crate::kernel) fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, |writer| {
            writer.bytes.extend_from_slice(text.as_bytes());
            writer.bytes.push(0);
        });
    }

    /// An attribute made of attributes.
    pub(in crate::kernel) fn nested(&mut self, kind: u16, attributes: impl FnOnce(&mut Self)) {
        self.attribute(kind | NESTED, attributes);
    }

    fn attribute(&mut self, kind: u16, payload: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        payload(self);
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    /// Adds a flag to the message that starts at this offset.
    pub(super) fn add_flag(&mut self, message: usize, flag: u16) {
        if let Some([low, high]) = self.bytes.get_mut(message + 6..message + 8) {
            let flags = u16::from_ne_bytes([*low, *high]) | flag;
            [*low, *high] = flags.to_ne_bytes();
        }
    }

    /// The number of bytes written: where the next message will start.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// All messages.
    pub(in crate::kernel) fn finish(self) -> Result<Vec<u8>, AttributeTooLong> {
        if self.too_long { Err(AttributeTooLong) } else { Ok(self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() -> Result<(), Malformed> {
        let mut writer = Writer::default();
        writer.message((0x0a03, 5, 77), (1, 0), |attributes| {
            attributes.text(1, "egret");
            attributes.nested(4, |nested| nested.number(2, 0xffff_ff6a));
        });
        writer.add_flag(0, 8);
        let bytes = writer.finish().map_err(|_| Malformed { what: "test" })?;
        let messages: Vec<Message<'_>> = Messages(&bytes).collect::<Result<_, _>>()?;
        let [message] = messages.as_slice() else { return Err(Malformed { what: "number of messages" }) };
        assert_eq!((message.kind, message.flags, message.sequence), (0x0a03, 13, 77));
        let (family, attributes) = message.netfilter()?;
        assert_eq!(family, 1);
        assert_eq!(find_text(attributes, 1)?, Some("egret"));
        assert_eq!(find_u32(find(attributes, 4)?.unwrap_or_default(), 2)?, Some(0xffff_ff6a));
        assert_eq!(find(attributes, 9)?, None);
        Ok(())
    }

    #[test]
    fn parsing_ends_at_an_invalid_length() {
        for bytes in [&[3, 0, 1, 0][..], &[0, 0, 0, 0], &[9, 0, 1, 0, 1, 1, 1, 1], &[1]] {
            let read: Vec<_> = Attributes(bytes).collect();
            assert_eq!(read, [Err(Malformed { what: "attribute" })], "{bytes:?}");
        }
    }

    #[test]
    fn an_attribute_longer_than_65535_bytes_is_refused() {
        let mut writer = Writer::default();
        writer.bytes(1, &vec![0; 65_532]);
        assert_eq!(writer.finish(), Err(AttributeTooLong));
    }
}
