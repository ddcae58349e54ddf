//! The connections of the model: how they break, and what the client does about it.

use super::*;

impl Cluster {
    /// What is on its way between the client and a node is lost.
    pub(super) fn break_connection(&mut self, n: usize, gives: Gives) {
        if self.broken.contains_key(&n) {
            return;
        }
        self.broken.insert(n, Broken::default());
        let between = |(_, (from, to)): &(&(u64, u64), &(Place, Place))| node_between(*from, *to) == Some(n);
        let lost: Vec<(u64, u64)> = self.messages.iter().filter(between).map(|(at, _)| *at).collect();
        for at in lost {
            self.messages.remove(&at);
            self.events.remove(&at);
        }
        self.nodes[n].interrupted(client().process.id);
        self.doubts.interrupted(worker(n).id);
        let in_flight =
            self.submitters.iter().flat_map(|(_, submitter)| submitter.in_flight_at(worker(n).id)).collect();
        self.doubt(in_flight);
        let mut after_us = self.random.random_range(MS..50 * MS);
        if gives.client || gives.node {
            self.at(after_us, Event::Lost(n, gives));
            after_us += self.random.random_range(MS..1_000 * MS);
        }
        self.at(after_us, Event::Connected(n));
    }

    /// What one side had queued is dropped when it gives up.
    pub(super) fn lost(&mut self, n: usize, gives: Gives) {
        let Some(broken) = self.broken.get_mut(&n) else { return };
        broken.queued.retain(|(from, ..)| if *from == Place::Client { !gives.client } else { !gives.node });
        broken.client_gave_up |= gives.client;
        broken.node_gave_up |= gives.node;
        if gives.node {
            self.nodes[n].interrupted(client().process.id);
        }
        if gives.client {
            self.at(REACH_AGAIN_US, Event::ReachAgain(n));
            self.doubts.lost(worker(n).id);
            for at in 0..self.submitters.len() {
                for lease in self.submitters[at].1.leases_of(worker(n).id) {
                    let mut in_flight = Vec::new();
                    self.submit(at, |s, _, out| in_flight = s.lost(lease, out));
                    for (position, seq) in in_flight.into_iter().enumerate() {
                        self.again(seq, position == 0);
                    }
                }
                self.submit(at, |s, _, out| s.raylet_unreachable(raylet(n).process.id, raylet(0), out));
            }
        }
        if self.random.random() {
            let after_us = self.random.random_range(MS..500 * MS);
            self.at(after_us, Event::Lost(n, gives));
        }
    }

    pub(super) fn connected(&mut self, n: usize) {
        let Some(broken) = self.broken.get(&n) else { return };
        if broken.client_gave_up && broken.node_gave_up && broken.queued.is_empty() {
            // Nobody tries.
            return self.at(CLIENT_TICK_US, Event::Connected(n));
        }
        for (from, to, event) in self.broken.remove(&n).unwrap_or_default().queued {
            self.send(from, to, event);
        }
        for (_, submitter) in &mut self.submitters {
            submitter.reconnected(worker(n).id);
        }
        self.doubts.connected(worker(n).id, self.now_us);
        self.ask_doubtful();
        self.tell_held(n);
    }

    pub(super) fn tell_held(&mut self, n: usize) {
        let asked = |submitter: &Submitter| submitter.raylet_at(raylet(n).process.id).is_some();
        if self.forgotten_at.contains(&n) || self.submitters.iter().any(|(_, submitter)| asked(submitter)) {
            let held = self.submitters.iter().flat_map(|(_, submitter)| submitter.leases_from(raylet(n))).collect();
            self.send(Place::Client, Place::Raylet(n), Event::Held(n, held));
        }
    }

    pub(super) fn doubt(&mut self, found: Vec<(ProcessAddr, u64)>) {
        for (worker, seq) in found {
            if let Some(task) = self.tasks.get(&seq) {
                self.doubts.add(worker, [(seq, task.attempts.number())]);
            }
        }
    }

    pub(super) fn ask_doubtful(&mut self) {
        let tasks = &self.tasks;
        let pending = |seq, attempt| tasks.get(&seq).is_some_and(|task| task.attempts.number() == attempt);
        for (worker, asked) in self.doubts.due(self.now_us, pending) {
            let n = worker.id.0.as_u128() as usize - 1_000;
            self.send(Place::Client, Place::Worker(n), Event::StillHave(n, asked));
        }
    }
}
