//! How many login bodies one client may have under way: they alone are held in memory whole.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::net::ClientKey;
use crate::policy::{Denial, Reason};

/// Login bodies of one client that are read at one time: with the cap of each, 4 MiB.
const MOST_AT_ONCE: usize = 64;
/// An honest body is read whole long before.
const WAIT: Duration = Duration::from_secs(1);

/// The login bodies that are being read, by client. Holds no more entries than there are requests in flight.
#[derive(Debug, Default)]
pub struct Readers(Mutex<HashMap<ClientKey, usize>>);

/// One body being read; dropped, it makes room.
#[derive(Debug)]
pub struct Reading {
    readers: Arc<Readers>,
    client: ClientKey,
}

impl Readers {
    /// Fails closed: over the bound the attempt is refused before a byte of its body is read. It never reached the application,
    /// so it is no failure.
    pub fn enter(self: &Arc<Self>, client: ClientKey) -> Result<Reading, Denial> {
        let mut held = self.held();
        let count = held.entry(client).or_default();
        if *count >= MOST_AT_ONCE {
            return Err(Denial::new(Reason::TooManyAttempts, "too many login bodies under way").retry_after(WAIT));
        }
        *count += 1;
        Ok(Reading { readers: Arc::clone(self), client })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<ClientKey, usize>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.readers.held().entry(self.client) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ClientAddr;

    fn key(ip: &str) -> ClientKey {
        ClientAddr::new(ip.parse().unwrap(), 64).key
    }

    #[test]
    fn trap_unbounded_buffering_login_bodies_of_one_client_are_bounded_and_leave_no_trace() {
        let readers = Arc::new(Readers::default());
        let mut held: Vec<_> = (0..MOST_AT_ONCE).map(|_| readers.enter(key("192.0.2.1")).unwrap()).collect();
        let refused = readers.enter(key("192.0.2.1")).unwrap_err();
        assert_eq!((refused.reason, refused.retry_after), (Reason::TooManyAttempts, Some(WAIT)));
        assert!(readers.enter(key("192.0.2.2")).is_ok(), "another client has its own");
        held.pop();
        held.push(readers.enter(key("192.0.2.1")).unwrap());
        assert!(readers.enter(key("192.0.2.1")).is_err());
        drop(held);
        assert!(readers.held().is_empty());
    }
}
