//! Our tables in the firewall. The kernel counts what happens to a namespace's ruleset: where nothing has since a look that found all
//! right, nothing is read.
use super::outcome;
use crate::{
    Drift, Result,
    core::Core,
    firewall::{
        nft::{Difference, Model, Transaction, generation},
        sandbox as table,
    },
    netlink::{Protocol, Socket},
};

fn drift(sandbox: &str, (part, expected, found): Difference) -> Drift {
    Drift {
        sandbox: sandbox.into(),
        ..Drift::of("", part, expected, found)
    }
}

impl Core {
    pub(super) fn check_host(&mut self, mend: bool) -> Result<Vec<Drift>> {
        if !self.table {
            return Ok(Vec::new());
        }
        let now = generation(&mut self.nft)?;
        if self.verified == Some(now) {
            return Ok(Vec::new());
        }
        let expected = Model::of(&self.compose_firewall(false));
        let families = self.families();
        let found = Model::read(&mut self.nft, families)?;
        let differences = found.differences(&expected);
        self.verified = differences.is_empty().then_some(now);
        let mut drifts: Vec<_> = differences.into_iter().map(|d| drift("", d)).collect();
        if mend && !drifts.is_empty() {
            let mended = outcome(self.rebuild_firewall());
            drifts.iter_mut().for_each(|drift| drift.mended = mended.clone());
        }
        Ok(drifts)
    }

    pub(super) fn check_sandbox(&mut self, id: &str, mend: bool) -> Result<Vec<Drift>> {
        let Ok(sandbox) = self.sandbox(id) else {
            return Ok(Vec::new());
        };
        let mut overlays = sandbox.record.endpoints.iter().filter(|e| e.is_overlay());
        // Until the state of its networks is here it is not known what should be in it.
        let is_known = overlays.all(|e| self.is_synced(&e.endpoint.network_id));
        let is_leaving = sandbox
            .record
            .endpoints
            .iter()
            .any(|e| self.withdrawn.contains(&e.link));
        if sandbox.netns.is_none() || !sandbox.table || !is_known || is_leaving {
            return Ok(Vec::new());
        }
        let expected = self.expected_table(id);
        let idle = expected.is_idle();
        if idle && sandbox.nft.is_none() {
            return Ok(Vec::new());
        }
        let mut socket = match self.sandbox_mut(id)?.nft.take() {
            Some(socket) => socket,
            None => self.socket_inside(id, Protocol::Netfilter)?,
        };
        let drifts = self.compare_table(id, &mut socket, &expected, mend);
        self.sandbox_mut(id)?.nft = Some(socket);
        drifts
    }

    fn expected_table(&self, id: &str) -> Model {
        let mut tx = Transaction::default();
        table::create(&mut tx);
        self.fill_table(id, &mut tx);
        Model::of(&tx)
    }

    fn compare_table(
        &mut self,
        id: &str,
        socket: &mut Socket,
        expected: &Model,
        mend: bool,
    ) -> Result<Vec<Drift>> {
        let now = generation(socket)?;
        if self.sandbox(id)?.verified == Some(now) {
            return Ok(Vec::new());
        }
        let found = Model::read(socket, &[crate::firewall::nft::Family::V4])?;
        // A daemon before may never have had a reason to make one.
        let is_needless = found.is_empty() && expected.is_idle();
        let differences = if is_needless {
            Vec::new()
        } else {
            found.differences(expected)
        };
        self.sandbox_mut(id)?.verified = differences.is_empty().then_some(now);
        let mut drifts: Vec<_> = differences.into_iter().map(|d| drift(id, d)).collect();
        if !mend || drifts.is_empty() {
            return Ok(drifts);
        }
        let mut tx = Transaction::default();
        if found.has_frame_of(expected) {
            // Chains stay hooked in, so no connection meets a moment without translation.
            table::empty(&mut tx);
        } else {
            if !found.is_empty() {
                tx.remove_table();
            }
            table::create(&mut tx);
        }
        self.fill_table(id, &mut tx);
        let mended = outcome(tx.commit(socket));
        drifts.iter_mut().for_each(|drift| drift.mended = mended.clone());
        Ok(drifts)
    }
}
