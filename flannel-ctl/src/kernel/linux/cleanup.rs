//! Removing everything of ours.

use super::{LinuxKernel, explain};
use crate::{
    kernel::{
        KernelError,
        netlink::{
            link::{self, Link},
            nexthop::{self, Nexthop},
            refusal::Refusal,
            route::{self, Entry},
            wire::Request,
        },
    },
    model::{Family, Route},
};

impl LinuxKernel {
    /// Routes and nexthops with our protocol number, but for routes to `keep`, and the devices that the scope names. The
    /// packet filter's share is its own. Goes on after a failure and returns all of them.
    pub fn cleanup(&mut self, keep: &dyn Fn(&Entry) -> bool) -> Result<(), Vec<KernelError>> {
        let mut errors = Vec::new();
        for family in Family::ALL {
            let ours = |payload: &[u8]| {
                Entry::read(payload)
                    .filter(|entry| entry.is_main() && entry.protocol == Route::PROTOCOL && !keep(entry))
            };
            match self.socket.dump(route::list(family, Some(Route::PROTOCOL)), ours) {
                Ok(entries) => {
                    self.remove(&entries, "route", |entry| entry.dst.to_string(), route::delete_entry, &mut errors);
                }
                Err(refusal) if route::has_none(refusal.errno) => {}
                Err(refusal) => errors.push(explain("list the routes", &refusal, None)),
            }
        }
        if self.nexthops {
            let ours = |payload: &[u8]| Nexthop::read(payload).filter(|nexthop| nexthop.protocol == Route::PROTOCOL);
            match self.socket.dump(nexthop::list(0), ours) {
                Ok(found) => {
                    self.remove(
                        &found,
                        "nexthop",
                        |found| found.id.to_string(),
                        |found| nexthop::delete(found.id),
                        &mut errors,
                    );
                }
                Err(refusal) => errors.push(explain("list the nexthops", &refusal, None)),
            }
        }
        match self.our_devices() {
            Ok(found) => self.remove_links(&found, &mut errors),
            Err(error) => errors.push(error),
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// These interfaces, whatever the scope says.
    pub fn remove_devices(&mut self, found: &[Link]) -> Result<(), Vec<KernelError>> {
        let mut errors = Vec::new();
        self.remove_links(found, &mut errors);
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn remove_links(&mut self, found: &[Link], errors: &mut Vec<KernelError>) {
        self.remove(found, "device", |found| found.name.clone(), |found| link::delete(found.index), errors);
        (self.v4, self.v6) = (None, None);
    }

    fn remove<T>(
        &mut self,
        found: &[T],
        what: &str,
        name: impl Fn(&T) -> String,
        request: impl Fn(&T) -> Request,
        errors: &mut Vec<KernelError>,
    ) {
        let requests: Vec<_> = found.iter().map(request).collect();
        for (object, outcome) in found.iter().zip(self.socket.run_all(&requests)) {
            if let Err(refusal) = outcome
                && !is_gone(&refusal)
            {
                errors.push(explain(&format!("delete {what} {}", name(object)), &refusal, None));
            }
        }
    }
}

fn is_gone(refusal: &Refusal) -> bool {
    use nix::errno::Errno::{ENODEV, ENOENT, ESRCH};
    matches!(refusal.errno, ENODEV | ENOENT | ESRCH)
}
