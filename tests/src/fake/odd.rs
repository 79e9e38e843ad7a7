//! Odd answers that a registry should not or need not give, and that real ones give. A registry's clients cope with
//! them.

use super::connection::{Delivery, Framing};
use super::content::Content;

/// One way to answer a good request oddly. The bytes are right.
#[derive(Clone, Debug)]
pub enum Odd {
    /// `Content-Range` tells no total: `bytes 0-9/*`.
    NoTotal,
    /// A 206 without `Content-Range`.
    NoContentRange,
    /// A 206 with the bytes from the first one on, and a `Content-Range` that says so.
    FromStart,
    /// A 206 whose total is 7 bytes too large.
    OtherTotal,
    /// A 206 with `multipart/byteranges`, though one range was asked for.
    Multipart,
    /// HTTP/1.0: no length, and the connection's end is the body's end.
    UntilClose,
    /// `Content-Length` of an answer to HEAD is this, or is missing.
    HeadLength(Option<u64>),
    /// More headers.
    Headers(Vec<(String, String)>),
}

impl Delivery {
    pub(super) fn be_odd(&mut self, odd: Odd) {
        let reply = &mut self.reply;
        match odd {
            Odd::NoTotal => self.total = None,
            Odd::NoContentRange => self.tells_range = false,
            Odd::FromStart if reply.partial => {
                let len = reply.span.end - reply.span.start;
                reply.span = 0..len;
            }
            Odd::OtherTotal => self.total = Some(reply.content.len() + 7),
            Odd::Multipart if reply.partial => {
                let (first, last) = (reply.span.start, reply.span.end - 1);
                let len = reply.content.len();
                let head = format!(
                    "--odd\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {first}-{last}/{len}\r\n\r\n"
                );
                let part = reply.content.read(reply.span.clone());
                let parts = [
                    Content::bytes(head),
                    Content::bytes(part),
                    Content::bytes("\r\n--odd--\r\n"),
                ];
                reply.content = Content::concat(&parts);
                reply.span = 0..reply.content.len();
                reply.partial = false;
                reply.without("Content-Type");
                let multipart = "multipart/byteranges; boundary=odd".to_owned();
                reply.headers.push(("Content-Type".to_owned(), multipart));
            }
            Odd::UntilClose => self.framing = Framing::UntilClose,
            Odd::HeadLength(length) if self.head_only => self.framing = Framing::Told(length),
            Odd::Headers(headers) => reply.headers.extend(headers),
            Odd::FromStart | Odd::Multipart | Odd::HeadLength(_) => {}
        }
    }
}
