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

/// Streams that the lanes of one trunk ask for in one epoch: four times as many in a second, where a peer parks 1,024 and bears 10,000
/// MOVEs in 10 s on the lane where perhaps all of them go on.
const MOST_AT_ONCE: usize = 128;

/// What of it is for each of so many lanes.
fn share(lanes: usize) -> usize {
    (MOST_AT_ONCE / lanes.max(1)).max(1)
}

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
            if !goes {
                continue;
            }
            let places = lane.trunk.places();
            let here = lane.reference.id;
            if !places.iter().any(|place| place.open && place.id != here) {
                continue;
            }
            let most = share(places.iter().filter(|place| !place.open).count());
            let (conns, hops) = (&self.conns, &self.hops);
            let movable = lane.mux.leavers();
            let movable = movable.filter(|&(_, owner)| flows(conns, hops, owner));
            let chosen: Vec<Key> = movable.map(|(key, _)| key).take(most).collect();
            for key in chosen {
                let name = self.shared.next_move.fetch_add(1, Ordering::Relaxed);
                lane.mux.ask_to_leave(key, name);
            }
            self.soil(lane_key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_lanes_of_a_trunk_move_does_not_close_the_one_lane_where_it_goes_on() {
        for lanes in 1..=16 {
            // In 10 s, in which 10,000 useless frames close it; the rest is for the credit that is given back meanwhile.
            let moves = lanes * share(lanes) * 41;
            assert!(moves <= 6_000, "{moves} of {lanes} lanes");
        }
    }
}
