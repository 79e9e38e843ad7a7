//! How long a blob is, asked for in the ways that registries answer.

use larder_shared::Range;

use super::{Answer, Ask, Failure, Upstreams, Want};

impl Upstreams {
    /// Asks for a blob's length: by HEAD; where that is refused or gets no answer of a registry, for one byte; and for the
    /// whole of a blob that has no first byte.
    ///
    /// Public ECR refuses a HEAD that it would allow as a GET, and a signed redirect is good for GET alone.
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
