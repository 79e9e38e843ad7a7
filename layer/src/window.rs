//! Finds the bytes of a window to which the blocks behind it refer.
//!
//! Deflate refers back at most 32 KiB, so only the first 32 KiB behind a checkpoint can refer to the window before it.
//! They are decoded three times, with windows whose bytes encode their own positions. So the output shows which bytes
//! were copied from the window, even over several steps.

use crate::inflate::{At, Inflate, Stop, WINDOW, Window, zeros};

/// The needed bytes of a window.
pub enum Needed {
    /// No block refers to the window.
    Nothing,
    /// The window, with zeros at all bytes that no block refers to.
    Some(Window),
    /// There are too few compressed bytes to decide.
    Unknown,
}

/// The window before a checkpoint, and the compressed bytes behind it.
pub struct Behind<'a> {
    pub window: &'a [u8; WINDOW],
    /// This many upper bits of `first` come before `compressed`.
    pub bits: u8,
    pub first: u8,
    pub compressed: &'a [u8],
}

impl Behind<'_> {
    /// Decodes the first bytes behind the checkpoint, with `window` before them. `None` if there are too few bytes.
    fn decode(
        &self,
        state: &mut Inflate,
        window: &[u8; WINDOW],
        output: &mut [u8],
    ) -> Option<usize> {
        state.resume(self.bits, self.first, Some(window));
        let (mut read, mut written) = (0, 0);
        while written < output.len() {
            let rest = &self.compressed[read..];
            let step = state
                .step(rest, &mut output[written..], Stop::Nowhere)
                .ok()?;
            (read, written) = (read + step.read, written + step.written);
            if step.at == At::End {
                break;
            }
            if step.read + step.written == 0 {
                return None;
            }
        }
        Some(written)
    }

    pub fn needed(&self, state: &mut Inflate) -> Needed {
        let mut marks = zeros();
        let mut outputs = [vec![0; WINDOW], vec![0; WINDOW], vec![0; WINDOW]];
        let mut length = 0;
        let ways: [fn(usize) -> u8; 3] = [|at| at as u8, |at| !(at as u8), |at| (at >> 8) as u8];
        for (way, output) in ways.iter().zip(&mut outputs) {
            for (at, mark) in marks.iter_mut().enumerate() {
                *mark = way(at);
            }
            match self.decode(state, &marks, output) {
                Some(decoded) => length = decoded,
                None => return Needed::Unknown,
            }
        }
        let [low, inverted, high] = &outputs;
        let mut needed: Option<Window> = None;
        for at in 0..length {
            // A byte that is the same with both windows comes from the stream itself.
            if low[at] != inverted[at] {
                let from = (usize::from(high[at]) << 8 | usize::from(low[at])) % WINDOW;
                let needed = needed.get_or_insert_with(zeros);
                needed[from] = self.window[from];
            }
        }
        needed.map_or(Needed::Nothing, Needed::Some)
    }
}
