//! Server-sent events, as the HTML standard's "event stream interpretation" defines them.
//!
//! Pushed bytes, pulled events; no I/O. Lines end with CR, LF or CRLF; comments and unknown
//! fields are skipped. An event may not grow without end: one over [`MAX_EVENT_BYTES`] ends
//! the stream with an error.

/// Largest event held, in bytes. A record takes a few kilobytes at most.
pub const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its type; `message` when the stream names none.
    pub name: String,
    /// Its data lines, joined by line feeds.
    pub data: String,
}

/// The stream holds an event that is too large to be one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the live stream is larger than {MAX_EVENT_BYTES} bytes")]
pub struct TooLarge;

/// The state between two pieces of a stream.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    past_first_line: bool,
    name: String,
    data: Option<String>,
}

impl Parser {
    /// Reads the next piece and returns the events that it completes.
    ///
    /// # Errors
    /// [`TooLarge`]; the parser is of no use afterwards.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<Event>, TooLarge> {
        let mut events = Vec::new();
        for &byte in piece {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                // The second half of a CRLF.
                b'\n' if after_cr => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.as_ref().map_or(0, String::len) > MAX_EVENT_BYTES {
                return Err(TooLarge);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let mut text = text.as_ref();
        if !std::mem::replace(&mut self.past_first_line, true) {
            text = text.strip_prefix('\u{feff}').unwrap_or(text);
        }
        if text.is_empty() {
            let name = std::mem::take(&mut self.name);
            return self.data.take().map(|data| Event {
                name: if name.is_empty() { "message".to_owned() } else { name },
                data,
            });
        }
        let (field, value) = match text.split_once(':') {
            Some((field, value)) => (field, value.strip_prefix(' ').unwrap_or(value)),
            None => (text, ""),
        };
        match field {
            "event" => self.name = value.to_owned(),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // A comment (empty field), id and retry: nothing that we use.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_are_read_whatever_ends_their_lines() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = "\u{feff}: hello\n\nevent: record\ndata: {\"a\":1}\n\ndata:x\ndata: y\ndata\n\nevent: empty\n\n"
                .replace('\n', end);
            let events = Parser::default().push(stream.as_bytes()).unwrap();
            assert_eq!(
                events,
                [event("record", "{\"a\":1}"), event("message", "x\ny\n")],
                "{end:?}"
            );
        }
    }

    #[test]
    fn an_unfinished_event_waits() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(b"event: lagged\ndata: {\"missed\"").unwrap(), []);
        assert_eq!(parser.push(b":3}\n").unwrap(), []);
        assert_eq!(parser.push(b"\n").unwrap(), [event("lagged", "{\"missed\":3}")]);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; MAX_EVENT_BYTES / 2];
        assert!(parser.push(&piece).is_ok());
        assert!(parser.push(&piece).is_ok());
        assert_eq!(parser.push(&piece), Err(TooLarge));
    }

    proptest! {
        #[test]
        fn where_a_stream_is_cut_does_not_matter(
            stream in proptest::collection::vec(prop_oneof![
                Just(b"data: a".to_vec()), Just(b"event: e".to_vec()), Just(b"\n".to_vec()),
                Just(b"\r".to_vec()), Just(b"\r\n".to_vec()), Just(b":".to_vec()), any::<[u8; 2]>().prop_map(Vec::from),
            ], 0..40),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = stream.concat();
            let whole = Parser::default().push(&bytes).unwrap();
            let (head, tail) = bytes.split_at(if bytes.is_empty() { 0 } else { cut.index(bytes.len()) });
            let mut parser = Parser::default();
            let mut pieces = parser.push(head).unwrap();
            pieces.extend(parser.push(tail).unwrap());
            prop_assert_eq!(pieces, whole);
        }
    }
}
