//! Python bindings of `van-core`: convert and delegate. MessagePack goes in and out as bytes, so that the words of the
//! contract are written down once on each side.
//!
//! No Rust thread ever attaches to the interpreter; everything here is called by Python and returns soon. What may take a
//! few system calls, or waits for threads, lets go of the interpreter meanwhile.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::de::DeserializeOwned;
use van_core::plane::{Plane, PlaneError};

pyo3::import_exception!(vanrouter.errors, ConfigError);
pyo3::import_exception!(vanrouter.errors, NoSuchKey);
pyo3::import_exception!(vanrouter.errors, StaleGeneration);

/// The only place that knows both sides' errors.
fn raise(error: PlaneError) -> PyErr {
    match error {
        PlaneError::StaleGeneration { .. } => StaleGeneration::new_err(error.to_string()),
        PlaneError::Config(_) => ConfigError::new_err(error.to_string()),
        PlaneError::NoSuchKey(_) => NoSuchKey::new_err(error.to_string()),
        PlaneError::Io(io) => PyOSError::new_err((io.raw_os_error().unwrap_or(5), io.to_string())),
        other => PyRuntimeError::new_err(other.to_string()),
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> PyResult<T> {
    rmp_serde::from_slice(bytes)
        .map_err(|error| ConfigError::new_err(format!("not of the contract's form: {error}")))
}

/// The Rust data plane. Use `vanrouter.native`, not this.
#[pyclass(module = "vanrouter._core", name = "Plane", frozen)]
struct PyPlane(Plane);

#[pymethods]
impl PyPlane {
    /// Start the threads. `config` is a `PlaneConfig`; `adopted` are (host, port, fd) of a predecessor's sockets, which it owns from now on.
    #[new]
    fn new(py: Python<'_>, config: &[u8], adopted: Vec<(String, u16, i32)>) -> PyResult<Self> {
        let sockets: Vec<(String, u16, OwnedFd)> = adopted
            .into_iter()
            // SAFETY: the caller hands over descriptors that it owns and does not use again (plane.py, `adopt`).
            .map(|(host, port, fd)| (host, port, unsafe { OwnedFd::from_raw_fd(fd) }))
            .collect();
        let config = decode(config)?;
        let mut adopted = Vec::new();
        for (host, port, fd) in sockets {
            let ip: IpAddr = host
                .parse()
                .map_err(|_| ConfigError::new_err(format!("{host:?} is not an IP address")))?;
            adopted.push((SocketAddr::new(ip, port), fd));
        }
        py.detach(|| Plane::start(&config, adopted))
            .map(Self)
            .map_err(raise)
    }

    /// Put a complete `Snapshot` in force.
    fn snapshot(&self, py: Python<'_>, snapshot: &[u8]) -> PyResult<()> {
        let snapshot = decode(snapshot)?;
        py.detach(|| self.0.snapshot(snapshot)).map_err(raise)
    }

    /// Put `Changes` in force.
    fn apply(&self, py: Python<'_>, changes: &[u8]) -> PyResult<()> {
        let changes = decode(changes)?;
        py.detach(|| self.0.apply(changes)).map_err(raise)
    }

    /// Open a lane, as a `Dial` says.
    fn dial(&self, dial: &[u8]) -> PyResult<()> {
        self.0.dial(&decode(dial)?).map_err(raise)
    }

    /// Give up a dial.
    fn cancel_dial(&self, id: u64) {
        self.0.cancel_dial(id);
    }

    /// Queue a control message; `False`: no such link, or its queue is full.
    fn send_message(&self, router: &str, data: &[u8]) -> PyResult<bool> {
        self.0.send_message(router, data.to_vec()).map_err(raise)
    }

    /// Close every lane to this router now.
    fn cut(&self, router: &str, reason: &str) -> PyResult<()> {
        self.0.cut(router, reason).map_err(raise)
    }

    /// Lanes of a link to this address take no new streams.
    fn retire(&self, link: &str, host: &str, port: u16) -> PyResult<()> {
        self.0.retire(link, host, port).map_err(raise)
    }

    /// The site's live routers.
    fn set_siblings(&self, boots: Vec<u64>) {
        self.0.set_siblings(boots);
    }

    /// Sites that there are no new lanes with.
    fn set_refused(&self, sites: Vec<String>) -> PyResult<()> {
        self.0.set_refused(&sites).map_err(raise)
    }

    /// Routers that OPENs of ours may cross from now on.
    fn set_hop_limit(&self, limit: u8) -> PyResult<()> {
        self.0.set_hop_limit(limit).map_err(raise)
    }

    /// The grace begins.
    fn leave(&self) {
        self.0.leave();
    }

    /// The grace is over.
    fn refuse(&self, py: Python<'_>) {
        py.detach(|| self.0.refuse());
    }

    /// (host, port, fd) of every bound socket; the descriptors are duplicates and belong to the caller.
    fn listening_sockets(&self) -> PyResult<Vec<(String, u16, i32)>> {
        let sockets = self.0.listening_sockets().map_err(raise)?;
        Ok(sockets
            .into_iter()
            .map(|(address, fd)| (address.ip().to_string(), address.port(), fd.into_raw_fd()))
            .collect())
    }

    /// Open a stream: its id and the descriptor of its inside end, which belongs to the caller.
    fn connect(&self, routing_key: &str) -> PyResult<(u64, i32)> {
        let (id, inside) = self.0.connect(routing_key).map_err(raise)?;
        Ok((id, OwnedFd::from(inside).into_raw_fd()))
    }

    /// Whether the stream's FIN was received, and its class if it broke.
    fn stream_end(&self, id: u64) -> (bool, Option<&'static str>) {
        self.0.stream_end(id)
    }

    /// Closing the inside end of this stream shall be a reset.
    fn reset_stream(&self, id: u64) {
        self.0.reset_stream(id);
    }

    /// The inside end of this stream is closed.
    fn forget_stream(&self, id: u64) {
        self.0.forget_stream(id);
    }

    /// Becomes readable when `take_events` has something; stays the plane's.
    fn event_fd(&self) -> i32 {
        self.0.event_fd().as_raw_fd()
    }

    /// Everything new, as a MessagePack list. Descriptors in it belong to the caller.
    fn take_events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let events = self.0.take_events();
        let encoded = encode(py, &events)?;
        for event in events {
            if let Some(descriptor) = event.into_descriptor() {
                // It is the caller's now, by its number.
                let _ = descriptor.into_raw_fd();
            }
        }
        Ok(encoded)
    }

    /// Everything that was taken has been served: there is room for more.
    fn settle_events(&self) {
        self.0.settle_events();
    }

    /// `Counters`.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        encode(py, &self.0.counters())
    }

    /// Close everything and wait for the threads.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.0.stop());
    }
}

fn encode<'py>(py: Python<'py>, value: &impl serde::Serialize) -> PyResult<Bound<'py, PyBytes>> {
    let bytes = rmp_serde::to_vec_named(value)
        .map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    Ok(PyBytes::new(py, &bytes))
}

/// The Rust core of vanrouter. Use `vanrouter.native`, not this.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::PyPlane;
}
