//! TUN devices that stay when nobody reads them: netlink cannot make them; the rest is as with any device.

use nix::errno::Errno;

use super::LinuxKernel;
use crate::{
    kernel::netlink::{link, refusal::Refusal},
    model::{Family, Tun},
    userspace,
};

impl LinuxKernel {
    /// Makes it, or changes what is there; a VXLAN device of that name is the kernel datapath's, and goes.
    pub(super) fn put_tun(&mut self, family: Family, wanted: &Tun) -> Result<(), Refusal> {
        let mut found = self.find_link(&wanted.name)?;
        if let Some(link) = found.as_ref().filter(|link| link.vxlan.is_some()) {
            *self.device_slot(family) = None;
            self.make_way(link)?;
            found = None;
        }
        if found.is_none() {
            userspace::create_device(&wanted.name)
                .map_err(|error| Refusal::new(Errno::from_raw(error.errno()), &error.to_string()))?;
            found = self.find_link(&wanted.name)?;
        }
        let Some(link) = found else {
            return Err(Refusal::new(Errno::ENODEV, "somebody removed it at once"));
        };
        let Some(present) = link.to_tun() else {
            let kind = link.kind.as_deref().unwrap_or("physical");
            let text = format!("{} exists and is not ours but {kind}: rename or remove it", wanted.name);
            return Err(Refusal::new(Errno::EEXIST, &text));
        };
        if present != *wanted {
            self.socket.run(link::change_tun(link.index, wanted))?;
        }
        self.remember(family, &wanted.name)
    }
}
