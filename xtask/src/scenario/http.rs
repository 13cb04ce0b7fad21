//! As much of HTTP/1.1 as client and servers here need: a head, and a body with a length.

use std::io::{ErrorKind, Read};

use anyhow::{Context as _, Result, bail};

/// A request or an answer.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// All of it.
    pub(super) whole: Vec<u8>,
    head: String,
    body_at: usize,
}

impl Message {
    /// Its first line.
    pub(super) fn first_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// What follows the head.
    pub(super) fn body(&self) -> String {
        String::from_utf8_lossy(self.whole.get(self.body_at..).unwrap_or_default()).into_owned()
    }
}

/// The value of a header in a head.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Reads one message. Without a length it has no body.
pub(super) fn read(stream: &mut impl Read) -> Result<Message> {
    let mut whole = Vec::new();
    let body_at = loop {
        if let Some(end) = whole.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        more(stream, &mut whole)?;
    };
    let head = String::from_utf8_lossy(&whole[..body_at]).into_owned();
    let length = header(&head, "content-length").map_or(Ok(0), str::parse::<usize>);
    let length = length.context("a length that is none")?;
    while whole.len() < body_at + length {
        more(stream, &mut whole)?;
    }
    Ok(Message { whole, head, body_at })
}

fn more(stream: &mut impl Read, whole: &mut Vec<u8>) -> Result<()> {
    let mut piece = [0; 4096];
    let length = loop {
        match stream.read(&mut piece) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    if length == 0 {
        bail!("cut off after {} bytes", whole.len());
    }
    whole.extend_from_slice(&piece[..length]);
    if whole.len() > 1 << 20 {
        bail!("longer than anything here");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_ends_where_its_length_says() {
        let mut bytes = &b"POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 3\r\n\r\nabcdef"[..];
        let message = read(&mut bytes).unwrap();
        assert_eq!(message.first_line(), "POST / HTTP/1.1");
        assert_eq!(message.header("host"), Some("a"));
        assert!(message.body().starts_with("abc"));
        assert!(read(&mut &b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab"[..]).is_err());
        assert!(read(&mut &b"GET / HT"[..]).is_err());
    }
}
