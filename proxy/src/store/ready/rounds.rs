//! Rounds: the choice of ready files that go, and the next step of each file.

use std::{fs, io, time::Duration};

use larder_shared::Digest;

use super::{
    ASIDE, Cause, LOOKED_FOR, OFFERED, ORIGIN, REMEMBERED, Ready, ReadyFile, State,
    life::{self, Phase, Step},
};
use crate::{clock::unix_now, store::lock};

impl Ready {
    /// One round (blocking). Files that are older than `ttl` go, and of the others the least recently used, until
    /// `over` bytes are on their way out. Then each file takes its next step. Returns the bytes that went or are on
    /// their way out.
    pub(in crate::store) fn round(&self, over: u64, ttl: Option<Duration>) -> u64 {
        let steps = {
            let mut state = lock(&self.state);
            self.choose(&mut state, over, ttl);
            let (told, now) = (state.told, unix_now());
            let step = |(diff_id, file): (&Digest, &ReadyFile)| {
                let goes = file.goes.is_some();
                let step = life::next(file.phase, goes, file.references > 0, told, now);
                (step != Step::Nothing).then_some((*diff_id, step))
            };
            state.files.iter().filter_map(step).collect::<Vec<_>>()
        };
        let mut freed = 0;
        for (diff_id, step) in steps {
            match self.take(&diff_id, step) {
                Ok(bytes) => freed += bytes,
                Err(error) => {
                    tracing::warn!(%error, layer.diff_id = %diff_id, ?step, "a ready file could not be moved or removed; look at the disk, larder tries it again");
                }
            }
        }
        let state = lock(&self.state);
        let leaving = state.files.values();
        let leaving = leaving.filter(|file| file.phase != Phase::Offered);
        freed + leaving.map(|file| file.bytes).sum::<u64>()
    }

    fn choose(&self, state: &mut State, over: u64, ttl: Option<Duration>) {
        let State {
            files, looked_for, ..
        } = state;
        let looked_for = |diff_id: &Digest| {
            let since = looked_for.get(diff_id);
            since.is_some_and(|since| since.elapsed() < LOOKED_FOR)
        };
        let mut leaving = 0;
        let mut rest: Vec<(u64, Digest)> = Vec::new();
        for (diff_id, file) in &mut *files {
            let old = ttl.is_some_and(|ttl| self.clock.age(file.used) > ttl);
            match file.goes {
                Some(Cause::Withdrawn) => {}
                _ if old => file.goes = Some(Cause::Expired),
                // A file that is aside already stays on its way out.
                Some(_) if file.phase != Phase::Offered => {}
                _ => file.goes = None,
            }
            if file.references > 0 {
                continue;
            }
            match file.goes {
                Some(_) => leaving += file.bytes,
                None if looked_for(diff_id) => {}
                None => rest.push((file.used, *diff_id)),
            }
        }
        rest.sort_unstable();
        for (_, diff_id) in rest {
            if leaving >= over {
                return;
            }
            if let Some(file) = files.get_mut(&diff_id) {
                file.goes = Some(Cause::Room);
                leaving += file.bytes;
            }
        }
    }

    /// Takes one step. Returns the bytes that went.
    fn take(&self, diff_id: &Digest, step: Step) -> io::Result<u64> {
        // Another file may be taking its place: the next round looks again.
        let Some(_moving) = self.moving(diff_id) else {
            return Ok(0);
        };
        let (offered, aside) = (self.path(diff_id, OFFERED), self.path(diff_id, ASIDE));
        let phase = match step {
            Step::Nothing => return Ok(0),
            Step::SetAside => {
                match fs::rename(&offered, &aside) {
                    // Another program has removed it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        lock(&self.state).files.remove(diff_id);
                        return Ok(0);
                    }
                    done => done?,
                }
                // The time is taken after the rename: only from now on can no snapshot begin to refer to the file.
                Phase::Aside { since: unix_now() }
            }
            Step::WaitAnew => Phase::Aside { since: unix_now() },
            Step::BringBack => {
                fs::rename(&aside, &offered)?;
                Phase::Offered
            }
            Step::Remove => {
                if let Err(error) = fs::remove_file(&aside)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    return Err(error);
                }
                let _ = fs::remove_file(self.path(diff_id, ORIGIN));
                let mut state = lock(&self.state);
                let Some(file) = state.files.remove(diff_id) else {
                    return Ok(0);
                };
                let cause = file.goes.unwrap_or(Cause::Room);
                state.removed.push((cause, file.bytes));
                if state.gone.len() < REMEMBERED {
                    state.gone.insert(*diff_id, self.clock.now());
                }
                tracing::info!(layer.diff_id = %diff_id, size_bytes = file.bytes, ?cause, "a ready file was removed");
                return Ok(file.bytes);
            }
        };
        if let Some(file) = lock(&self.state).files.get_mut(diff_id) {
            file.phase = phase;
        }
        tracing::debug!(layer.diff_id = %diff_id, ?step, "a ready file");
        Ok(0)
    }
}
