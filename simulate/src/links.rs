//! Shares links: max-min fairness over the bytes of one step, by a few rounds of filling.
//!
//! Every transfer has a sender's link, a receiver's link, and a number of bytes that it wants. In each round, a link
//! offers its rest in equal shares to those of its transfers that still want bytes. A transfer takes the smaller of its
//! two offers. Four rounds come close to the fixed point; the rest is lost for this step.

const ROUNDS: usize = 4;

/// Fewer bytes than this are not given out.
const CRUMB: f64 = 1e-3;

/// One transfer's part in a step.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    pub from: u32,
    pub to: u32,
    /// The bytes that it could take; then the bytes that it could still take.
    pub bytes: f64,
    pub got: f64,
}

/// The links of one direction.
#[derive(Debug)]
pub struct Links {
    rates: Vec<f64>,
    left: Vec<f64>,
    takers: Vec<u32>,
    /// The largest part of its rate that any link has given.
    pub peak: f64,
}

impl Links {
    pub fn new(rates: Vec<f64>) -> Self {
        Self {
            left: vec![0.0; rates.len()],
            takers: vec![0; rates.len()],
            rates,
            peak: 0.0,
        }
    }

    fn open(&mut self, step: f64) {
        for (left, rate) in self.left.iter_mut().zip(&self.rates) {
            *left = rate * step;
        }
    }

    fn close(&mut self, step: f64) {
        for (left, rate) in self.left.iter().zip(&self.rates) {
            if rate.is_finite() {
                self.peak = self.peak.max(1.0 - left / (rate * step));
            }
        }
    }

    fn offer(&self, link: u32) -> f64 {
        self.left[link as usize] / f64::from(self.takers[link as usize].max(1))
    }
}

/// Gives each of `wants` its bytes of one step. `open` is scratch space.
pub fn share(
    wants: &mut [Want],
    up: &mut Links,
    down: &mut Links,
    step: f64,
    open: &mut Vec<(u32, f64)>,
) {
    up.open(step);
    down.open(step);
    open.clear();
    open.extend((0..wants.len() as u32).map(|i| (i, 0.0)));
    for _ in 0..ROUNDS {
        up.takers.fill(0);
        down.takers.fill(0);
        open.retain(|(i, _)| {
            let want = &wants[*i as usize];
            let (from, to) = (want.from as usize, want.to as usize);
            let more = want.bytes > 0.0 && up.left[from] > CRUMB && down.left[to] > CRUMB;
            if more {
                up.takers[from] += 1;
                down.takers[to] += 1;
            }
            more
        });
        if open.is_empty() {
            break;
        }
        // All offers are made before the first is taken.
        for (i, offer) in open.iter_mut() {
            let want = &wants[*i as usize];
            *offer = up.offer(want.from).min(down.offer(want.to)).min(want.bytes);
        }
        for (i, taken) in open.iter() {
            let want = &mut wants[*i as usize];
            want.bytes -= taken;
            want.got += taken;
            up.left[want.from as usize] -= taken;
            down.left[want.to as usize] -= taken;
        }
    }
    up.close(step);
    down.close(step);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(wants: &[(u32, u32, f64)], up: &[f64], down: &[f64]) -> Vec<f64> {
        let mut wants: Vec<Want> = wants
            .iter()
            .map(|&(from, to, bytes)| Want {
                from,
                to,
                bytes,
                got: 0.0,
            })
            .collect();
        let (mut up, mut down) = (Links::new(up.to_vec()), Links::new(down.to_vec()));
        share(&mut wants, &mut up, &mut down, 1.0, &mut Vec::new());
        assert!(up.peak <= 1.0 + 1e-9 && down.peak <= 1.0 + 1e-9);
        wants.into_iter().map(|want| want.got).collect()
    }

    #[test]
    fn a_link_is_shared_evenly() {
        assert_eq!(
            shared(&[(0, 0, 1e9), (0, 1, 1e9)], &[100.0], &[100.0, 100.0]),
            [50.0, 50.0]
        );
    }

    #[test]
    fn what_one_does_not_take_is_left_for_the_other() {
        assert_eq!(
            shared(&[(0, 0, 10.0), (0, 1, 1e9)], &[100.0], &[100.0, 100.0]),
            [10.0, 90.0]
        );
        // The first transfer is held up by its receiver.
        assert_eq!(
            shared(&[(0, 0, 1e9), (0, 1, 1e9)], &[100.0], &[20.0, 100.0]),
            [20.0, 80.0]
        );
    }

    #[test]
    fn a_link_without_a_limit_limits_nobody() {
        assert_eq!(
            shared(
                &[(0, 0, 1e9), (0, 1, 30.0)],
                &[f64::INFINITY],
                &[70.0, 70.0]
            ),
            [70.0, 30.0]
        );
    }
}
