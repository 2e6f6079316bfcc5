//! Who stands at the admin socket, as the kernel says it.

use tokio::net::UnixStream;
use tokio::net::unix::UCred;

/// Whom the socket lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Doorkeeper {
    uid: u32,
    gid: u32,
}

/// Who was not let in; `None`: what the kernel says of the peer could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stranger {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// One peer that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub uid: u32,
}

impl Doorkeeper {
    /// Lets in what runs as this process does: its user and its primary group.
    pub(super) fn of_this_process() -> std::io::Result<Self> {
        let (mine, _other) = UnixStream::pair()?;
        let own = mine.peer_cred()?;
        Ok(Self { uid: own.uid(), gid: own.gid() })
    }

    /// Fails closed: credentials that cannot be read, or of another user and group, are `Err` with what they are. Only the
    /// peer's primary group counts: the kernel vouches for no other.
    pub(super) fn admit(self, stream: &UnixStream) -> Result<Peer, Stranger> {
        let peer = stream.peer_cred().map_err(|_| Stranger { uid: None, gid: None })?;
        self.judge(&peer)
    }

    fn judge(self, peer: &UCred) -> Result<Peer, Stranger> {
        let (uid, gid) = (peer.uid(), peer.gid());
        self.lets_in(uid, gid).then_some(Peer { uid }).ok_or(Stranger { uid: Some(uid), gid: Some(gid) })
    }

    const fn lets_in(self, uid: u32, gid: u32) -> bool {
        uid == 0 || uid == self.uid || gid == self.gid
    }
}

impl Peer {
    /// `uid:NAME`, or `uid:NUMBER` for a user without a line in the user database.
    pub(super) async fn name(self) -> String {
        let users = tokio::fs::read_to_string("/etc/passwd").await.unwrap_or_default();
        format!("uid:{}", login_name(&users, self.uid).unwrap_or(&self.uid.to_string()))
    }
}

/// The name of a uid in text of the form of passwd(5).
fn login_name(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        (number == uid).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_user_own_group_and_root_are_let_in_and_nobody_else() {
        let door = Doorkeeper { uid: 1000, gid: 100 };
        assert!(door.lets_in(1000, 9));
        assert!(door.lets_in(2000, 100));
        assert!(door.lets_in(0, 0));
        assert!(!door.lets_in(2000, 9));
        assert!(!door.lets_in(2000, 0), "root's group is not root");
    }

    #[tokio::test]
    async fn this_process_is_its_own_peer() {
        let (one, _two) = UnixStream::pair().unwrap();
        let door = Doorkeeper::of_this_process().unwrap();
        let peer = door.admit(&one).unwrap();
        assert_eq!(peer.uid, door.uid);
        assert!(peer.name().await.starts_with("uid:"));
    }

    #[tokio::test]
    async fn a_stranger_is_told_by_its_numbers() {
        let (one, _two) = UnixStream::pair().unwrap();
        let own = one.peer_cred().unwrap();
        let door = Doorkeeper { uid: own.uid().wrapping_add(1), gid: own.gid().wrapping_add(1) };
        let refused = door.judge(&own);
        let stranger = Stranger { uid: Some(own.uid()), gid: Some(own.gid()) };
        assert!(refused == Err(stranger) || own.uid() == 0, "{refused:?}");
    }

    #[test]
    fn names_come_from_the_user_database() {
        let users = "root:x:0:0:root:/root:/bin/sh\n:x:7:7::/:\nbroken\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        assert_eq!(login_name(users, 1000), Some("alice"));
        assert_eq!(login_name(users, 0), Some("root"));
        assert_eq!(login_name(users, 7), None);
        assert_eq!(login_name(users, 5), None);
    }
}
