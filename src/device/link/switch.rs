//! More than two devices, and a path to each.

use std::sync::Arc;

use ipnet::IpNet;

use super::{
    Impairment, LinkEnd, MTU, PathStats, Verdict,
    hub::{Filter, Hub},
};
use crate::packet::Packet;

/// More than two devices joined in one place, which sends packets on by their destination.
///
/// # Examples
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::Duration;
/// # use synack::device::link::{Impairment, Switch};
/// let slow = Impairment::new().delay(Duration::from_millis(20));
/// let (switch, ends) = Switch::builder()
///     .port("10.0.0.1/32".parse()?, Impairment::new())
///     .port("10.0.0.2/32".parse()?, Impairment::new())
///     .port("0.0.0.0/0".parse()?, slow)
///     .build();
/// assert_eq!(ends.len(), 3);
/// switch.set_down(1, true);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Switch {
    hub: Arc<Hub>,
}

impl Switch {
    /// A switch without ports.
    pub fn builder() -> SwitchBuilder {
        SwitchBuilder {
            seed: 0,
            mtu: MTU,
            offload: false,
            ports: Vec::new(),
            routes: Vec::new(),
            filter: Filter(None),
        }
    }

    /// Counters of the path to a port. Ports are counted from zero.
    ///
    /// # Panics
    /// Here and below: if there is no such port.
    pub fn stats(&self, port: usize) -> PathStats {
        self.hub.lane(port).path.stats()
    }

    /// Changes what happens on the path to a port.
    pub fn modify(&self, port: usize, change: impl FnOnce(Impairment) -> Impairment) {
        self.hub.modify(port, change);
    }

    /// Begins or ends an outage of the path to a port.
    pub fn set_down(&self, port: usize, down: bool) {
        self.modify(port, |i| i.down(down));
    }
}

/// Makes a [`Switch`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use synack::device::link::{Impairment, Switch};
///
/// let (switch, ends) = Switch::builder()
///     .mtu(1400)
///     .port("10.0.0.1/32".parse()?, Impairment::new())
///     .port("0.0.0.0/0".parse()?, Impairment::new().loss(0.01))
///     .build();
/// assert_eq!(switch.stats(0).sent, 0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use]
pub struct SwitchBuilder {
    seed: u64,
    mtu: usize,
    offload: bool,
    ports: Vec<Impairment>,
    routes: Vec<(IpNet, usize)>,
    filter: Filter,
}

impl SwitchBuilder {
    common_setters!("all ports");

    /// Adds a port for these destinations; the longest prefix wins. The impairment is that of the
    /// path to it.
    pub fn port(mut self, prefix: IpNet, impairment: Impairment) -> Self {
        self.ports.push(impairment);
        self.also(prefix)
    }

    /// More destinations for the port added last.
    pub fn also(mut self, prefix: IpNet) -> Self {
        if let Some(port) = self.ports.len().checked_sub(1) {
            self.routes.push((prefix, port));
        }
        self
    }

    /// Looks at each packet before it is sent, with the port that it comes from, and decides.
    pub fn filter(
        mut self,
        filter: impl FnMut(usize, &Packet) -> Verdict + Send + 'static,
    ) -> Self {
        self.filter = Filter::new(filter);
        self
    }

    /// The switch, and a device for each port.
    pub fn build(self) -> (Switch, Vec<LinkEnd>) {
        let ports = self.ports.len();
        let hub = Hub::new(
            self.seed,
            self.mtu,
            self.offload,
            self.ports,
            Some(self.routes),
            self.filter,
        );
        let ends = (0..ports)
            .map(|port| LinkEnd::new(Arc::clone(&hub), port))
            .collect();
        (Switch { hub }, ends)
    }
}
