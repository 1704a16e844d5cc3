//! The data plane of vanrouter: it moves the bytes of streams between application sockets and the lanes of links.
//!
//! No Python, no async runtime. The deciding parts ([`frame`]) are sans-IO: bytes and time are arguments. The driving
//! parts own sockets and threads.

pub mod app_tls;
pub mod certificate;
pub mod chance;
pub mod classes;
pub mod contract;
pub mod control;
pub mod credit;
pub mod dialler;
pub mod events;
pub mod frame;
pub mod gate;
pub mod greeting;
pub mod handshake;
pub mod limits;
pub mod link_port;
pub mod mux;
pub mod payload;
pub mod plane;
pub mod record;
pub mod table;
pub mod tls;
pub mod trunk;
pub mod visitor;
pub mod worker;
