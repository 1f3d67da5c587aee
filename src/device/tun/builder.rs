//! Makes a TUN device and sets it up.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use ::tun::AbstractDevice;
use ipnet::IpNet;

use super::{Fd, Port, Tun, set_offload, set_offload_mask, set_vnet_header_len};
use crate::{
    device::{netns::NetNs, reader::Reader, rtnetlink::RtNetlink},
    packet::PACKET_MAX,
};

/// What an MTU can be: the least that IPv4 allows, the most that its length field can say.
const MTU_MIN: usize = 68;
/// The least MTU of a link that carries IPv6 (RFC 8200 §5).
const MTU_MIN_V6: usize = 1280;

/// Linux's 500 packets overflow inside the host before a sender on it is held back.
const TX_QUEUE_LEN: u32 = 5000;
/// The kernel reserves memory for each at once.
const TX_QUEUE_LENS: RangeInclusive<u32> = 1..=1_000_000;

/// How long, and how often, we wait for the kernel to take an address into use.
const ADDRESS_WAIT: Duration = Duration::from_millis(1);
const ADDRESS_WAITS: u32 = 1000;

/// How a [`Tun`] is to be made.
///
/// ```no_run
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use synack::device::Tun;
///
/// // The kernel's side has these addresses; the stack takes others of the same networks.
/// let tun = Tun::builder()
///     .name("syn0")
///     .address("10.7.0.1/24".parse()?)
///     .address("fd07::1/64".parse()?)
///     .mtu(1400)
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct TunBuilder {
    name: Option<String>,
    addresses: Vec<IpNet>,
    mtu: Option<usize>,
    offload: bool,
    tx_queue_len: Option<u32>,
    namespace: Option<NetNs>,
}

impl Default for TunBuilder {
    fn default() -> Self {
        Self {
            name: None,
            addresses: Vec::new(),
            mtu: None,
            offload: true,
            tx_queue_len: None,
            namespace: None,
        }
    }
}

impl TunBuilder {
    /// Name of the interface, 1 to 15 bytes; `%d` in it is replaced by a free number. The kernel
    /// chooses one by default. If a persistent device of the name exists, it is attached to.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Adds an address that the kernel has on the interface: the peer of the stack, so not one of
    /// the stack's. Its network is routed to the interface.
    pub fn address(mut self, address: IpNet) -> Self {
        self.addresses.push(address);
        self
    }

    /// MTU of the interface in bytes, 68 to 65,535, and 1,280 at least with IPv6. By default as it
    /// is: 1,500 for a new device.
    pub fn mtu(mut self, mtu: usize) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Exchange super-packets and unfilled checksums with the kernel: on by default, and off by
    /// itself where the kernel refuses.
    pub fn offload(mut self, offload: bool) -> Self {
        self.offload = offload;
        self
    }

    /// Packets that the kernel queues for us before it drops (`txqueuelen`): 5,000 by default, 1 to
    /// 1,000,000.
    pub fn tx_queue_len(mut self, packets: u32) -> Self {
        self.tx_queue_len = Some(packets);
        self
    }

    /// Network namespace in which the interface is to be; that of the calling thread by default.
    /// The device can be used from anywhere.
    pub fn netns(mut self, namespace: impl Into<NetNs>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Creates the device, or attaches to it, and switches the interface on. Takes no runtime.
    ///
    /// # Errors
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied): it takes `CAP_NET_ADMIN`;
    /// - [`NotFound`](io::ErrorKind::NotFound): there is no `/dev/net/tun`;
    /// - [`ResourceBusy`](io::ErrorKind::ResourceBusy): another program is attached to the device;
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput): the name, the MTU, an address or the
    ///   transmit queue is out of range.
    pub fn build(self) -> io::Result<Tun> {
        self.check()?;
        match &self.namespace {
            Some(namespace) => namespace.run(|| self.create())?,
            None => self.create(),
        }
    }

    fn check(&self) -> io::Result<()> {
        if let Some(name) = &self.name {
            let is_valid = (1..libc::IFNAMSIZ).contains(&name.len())
                && name != "."
                && name != ".."
                && !name.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace());
            if !is_valid {
                return Err(invalid(format!(
                    "interface name {name:?}: 1 to {} bytes without spaces, '/' and ':' are allowed",
                    libc::IFNAMSIZ - 1
                )));
            }
        }
        let has_v6 = self.addresses.iter().any(|net| matches!(net, IpNet::V6(_)));
        let min = if has_v6 { MTU_MIN_V6 } else { MTU_MIN };
        match self.mtu {
            Some(mtu) if !(min..=PACKET_MAX).contains(&mtu) => Err(invalid(format!(
                "MTU {mtu}: {min} to {PACKET_MAX} is allowed{}",
                if has_v6 { " with an IPv6 address" } else { "" }
            ))),
            _ => self.check_queue_and_addresses(),
        }
    }

    fn check_queue_and_addresses(&self) -> io::Result<()> {
        // The kernel takes 0 as well, and then drops every packet to us.
        if let Some(packets) = self.tx_queue_len.filter(|len| !TX_QUEUE_LENS.contains(len)) {
            let (min, max) = (TX_QUEUE_LENS.start(), TX_QUEUE_LENS.end());
            return Err(invalid(format!(
                "transmit queue of {packets} packets: {min} to {max} is allowed"
            )));
        }
        // Or it takes the address and forgets it.
        let no_host = |ip: IpAddr| {
            ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
        };
        match self.addresses.iter().find(|net| no_host(net.addr())) {
            Some(net) => Err(invalid(format!(
                "address {net}: an address that a host can have is allowed"
            ))),
            None => Ok(()),
        }
    }

    fn create(&self) -> io::Result<Tun> {
        let (device, vnet_header) = match self.open(self.offload) {
            Err(error) if self.offload && error.kind() == io::ErrorKind::InvalidInput => {
                (self.open(false)?, false)
            }
            device => (device?, self.offload),
        };
        device.set_nonblock()?;
        // The mask belongs to the device and not to us: an earlier owner may have left one.
        let fd = Fd(device.as_raw_fd());
        let vnet_header = vnet_header && set_vnet_header_len(fd).is_ok();
        let offload = vnet_header && set_offload(fd).is_ok();
        if self.offload && !vnet_header {
            drop(device);
            return Self {
                offload: false,
                ..self.clone()
            }
            .create();
        }
        if !offload {
            // Nothing was set if it is refused.
            let _ = set_offload_mask(fd, 0);
        }
        let name = device.tun_name()?;
        self.configure(&name, device.tun_index()? as u32)
            .map_err(|error| explain(error, &name))?;
        let mut port = Port {
            device,
            mtu: self.mtu.unwrap_or(1500),
            vnet_header,
            offload,
            reader: Reader::new(vnet_header, PACKET_MAX),
            splitter: None,
            drops: 0,
        };
        port.update_mtu();
        Ok(Tun {
            readiness: None,
            port,
            name,
            polls: 0,
            unanswered: 0,
            drained: false,
        })
    }

    fn open(&self, vnet_header: bool) -> io::Result<::tun::Device> {
        let mut configuration = ::tun::Configuration::default();
        if let Some(name) = &self.name {
            configuration.tun_name(name);
        }
        configuration.platform_config(|linux| {
            linux.vnet_hdr(vnet_header);
        });
        ::tun::create(&configuration)
            .map_err(|error| explain(error.into(), self.name.as_deref().unwrap_or("tun")))
    }

    /// Sets what was asked for, addresses before the interface goes up. What a persistent device
    /// has already is left alone, for setting it may take more privileges than using it.
    fn configure(&self, name: &str, index: u32) -> io::Result<()> {
        let mut netlink = RtNetlink::new()?;
        let mtu = self.mtu.map(|mtu| mtu as u32); // At most PACKET_MAX.
        if mtu.is_some() || self.tx_queue_len.is_some() {
            netlink.set_link(index, mtu, self.tx_queue_len, false)?;
        }
        if self.tx_queue_len.is_none() {
            // A default that may not be set is none to fail for.
            let _ = netlink.set_link(index, None, Some(TX_QUEUE_LEN), false);
        }
        for address in &self.addresses {
            netlink.add_address(index, *address).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("address {address} on {name}: {error}"),
                )
            })?;
        }
        match netlink.set_link(index, None, None, true) {
            // Whoever made the device has to switch it on as well.
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied && self.addresses.is_empty() =>
            {
                Ok(())
            }
            result => {
                result?;
                self.wait_for_addresses(&mut netlink)
            }
        }
    }

    /// Linux takes an IPv6 address into use a little after it was set (by a work queue), and drops
    /// what comes to it until then: the first SYN of a connection, for one.
    fn wait_for_addresses(&self, netlink: &mut RtNetlink) -> io::Result<()> {
        for address in self.addresses.iter().filter(|net| net.addr().is_ipv6()) {
            for _ in 0..ADDRESS_WAITS {
                if netlink.is_local(address.addr())? {
                    break;
                }
                thread::sleep(ADDRESS_WAIT);
            }
        }
        Ok(())
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Says what to do about an error of the kernel's.
fn explain(error: io::Error, name: &str) -> io::Error {
    let text = match error.kind() {
        _ if error.raw_os_error() == Some(libc::EACCES) => format!(
            "no permission to open /dev/net/tun or to set {name} up: run as root, or let everybody \
             open it as is usual (chmod 666 /dev/net/tun) ({error})"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "no permission to set up TUN device {name}: run as root, give the program \
             CAP_NET_ADMIN, or use an unprivileged user namespace (unshare -rn) ({error})"
        ),
        io::ErrorKind::NotFound => format!(
            "/dev/net/tun does not exist: load the kernel module (modprobe tun), or pass the \
             device into the container ({error})"
        ),
        io::ErrorKind::ResourceBusy => {
            format!("TUN device {name} is in use by another program ({error})")
        }
        _ => return error,
    };
    io::Error::new(error.kind(), text)
}
