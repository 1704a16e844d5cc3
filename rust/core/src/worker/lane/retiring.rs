//! Lanes over an address that is about to go, or whose ids are used up: no new streams, those that are there move to the lanes that have
//! taken their place, and they close with their last one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::mux::Key;
use crate::payload::GoAway;
use crate::trunk::LaneHealth;
use crate::worker::Worker;
use crate::worker::moving::flows;

/// Streams that a lane asks for in one epoch: four times as many in a second, where a peer parks 1,024 and bears 10,000 MOVEs in 10 s.
const MOST_AT_ONCE: usize = 128;

impl Worker {
    /// Those that were dialled for this link to this address.
    pub(in crate::worker) fn retire_lanes(&mut self, link: &str, address: SocketAddr) {
        for key in self.lane_indices() {
            let Some(Some(lane)) = self.lanes.get_mut(key) else {
                continue;
            };
            let is_meant = lane.reference.link.as_deref() == Some(link)
                && lane.socket.peer_addr().is_ok_and(|peer| peer == address);
            if !is_meant || lane.retired {
                continue;
            }
            lane.retired = true;
            if lane.reference.set_health(LaneHealth::Leaving) {
                lane.mux.go_away(GoAway::Replaced, "its address goes");
            }
            let trunk = Arc::clone(&lane.trunk);
            let waiting = std::mem::take(&mut lane.waiting);
            self.turn_away(&waiting);
            self.shared.publish_trunk(&trunk);
            self.trunk_changed(&trunk);
            self.soil(key);
        }
    }

    /// An epoch is over: some more streams of such lanes may go.
    pub(in crate::worker) fn empty_leaving(&mut self) {
        for lane_key in self.lane_indices() {
            let Some(Some(lane)) = self.lanes.get_mut(lane_key) else {
                continue;
            };
            let goes = lane.retired || lane.mux.is_used_up();
            if !goes || !lane.trunk.places().iter().any(|place| place.open) {
                continue;
            }
            let (conns, hops) = (&self.conns, &self.hops);
            let movable = lane.mux.leavers();
            let movable = movable.filter(|&(_, owner)| flows(conns, hops, owner));
            let chosen: Vec<Key> = movable.map(|(key, _)| key).take(MOST_AT_ONCE).collect();
            for key in chosen {
                let name = self.shared.next_move.fetch_add(1, Ordering::Relaxed);
                lane.mux.ask_to_leave(key, name);
            }
            self.soil(lane_key);
        }
    }
}
