//! What a lane tells its caller about a frame that arrived.

use super::Key;
use crate::payload::{Class, GoAway, Open};

/// What the caller has to act on.
#[derive(Debug, Eq, PartialEq)]
pub enum Received<'a> {
    /// The peer opened a stream: [`Mux::set_owner`], then [`Mux::accept`] or [`Mux::refuse`]. Its early data is stored until consumed.
    Open {
        /// The new stream.
        key: Key,
        /// What it asks for.
        open: Open<'a>,
    },
    /// Our OPEN was answered: early data need not be kept any more.
    Answered {
        /// Whose stream.
        owner: u32,
    },
    /// Our OPEN was refused; the stream is gone and the target saw nothing.
    Refused {
        /// Whose stream.
        owner: u32,
        /// Why.
        class: Class,
        /// In words.
        reason: &'a str,
    },
    /// Bytes for the application: to be written or stored, then [`Mux::consumed`].
    Data {
        /// Whose stream.
        owner: u32,
        /// The stream.
        key: Key,
        /// At least one.
        bytes: &'a [u8],
    },
    /// The other direction ended cleanly, and every byte of it has been received.
    Fin {
        /// Whose stream.
        owner: u32,
        /// The stream.
        key: Key,
    },
    /// Both directions are over; the stream is gone.
    Reset {
        /// Whose stream.
        owner: u32,
        /// Who did it.
        class: Class,
        /// In words.
        reason: &'a str,
    },
    /// The peer asks for a stream: [`Mux::let_go`] or [`Mux::keep`].
    Asked {
        /// Whose stream.
        owner: u32,
        /// The stream.
        key: Key,
        /// Of the move, for the lane where it goes on.
        name: u64,
    },
    /// A stream that we asked for may go: [`Mux::take_left`], then [`Mux::open_moved`] on another lane.
    Left {
        /// Whose stream.
        owner: u32,
        /// The stream.
        key: Key,
    },
    /// A stream came here that the peer had asked for: [`Mux::adopt`] or [`Mux::refuse_moved`].
    Moved {
        /// Its number from now on.
        id: u32,
        /// Of the move.
        name: u64,
        /// Bytes that were sent to us before.
        total: u64,
    },
    /// RESET for a stream that is not here any more. If it left and has not come to its new lane, it is over.
    LateReset {
        /// Its number.
        id: u32,
        /// Who did it.
        class: Class,
        /// In words.
        reason: &'a str,
    },
    /// A piece of the byte stream of control messages: then [`Mux::control_consumed`].
    Control(&'a [u8]),
    /// The peer or the lane is leaving.
    GoAway {
        /// How.
        code: GoAway,
        /// Why.
        reason: &'a str,
    },
}
