//! The length of a blob, asked for in the ways that registries answer.

use larder_shared::Range;

use super::{Answer, Ask, Failure, Upstreams, Want};

impl Upstreams {
    /// Asks for a blob's length by HEAD. If that is refused, or no registry answers it, asks for one byte. If the blob
    /// has no first byte, asks for the whole blob.
    ///
    /// Public ECR refuses a HEAD of a blob that it would serve to a GET, and a signed redirect is valid for GET alone.
    pub async fn ask_length(&self, mut ask: Ask) -> Result<Answer, Failure> {
        ask.want = Want::Head;
        let mut answer = self.ask(&ask).await;
        if let Err(Failure::Refused(_) | Failure::Invalid { .. }) = answer {
            ask.want = Want::Part(Range::new(0, 1));
            answer = self.ask(&ask).await;
        }
        if let Err(Failure::Unsatisfiable { .. }) = answer {
            ask.want = Want::All;
            answer = self.ask(&ask).await;
        }
        answer
    }
}
