//! Lanes over an address that is about to go: no new streams, and they close with their last one. Others have taken their place.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::payload::GoAway;
use crate::trunk::LaneHealth;
use crate::worker::Worker;

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
}
