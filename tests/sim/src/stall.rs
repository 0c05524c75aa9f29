//! Links whose sockets are full for a while. A broker hands its records to the kernel as ranges of files, which are read when
//! the socket has room: a slow reader sees them as they are then, not as they were when the answer was decided. Held back
//! here, so that a script can change them in between.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::task::{Context, Poll, Waker};

type Link = (IpAddr, IpAddr);

thread_local! {
    /// A simulation runs in one thread.
    static HELD: RefCell<BTreeMap<Link, Vec<Waker>>> = const { RefCell::new(BTreeMap::new()) };
}

pub fn clear() {
    HELD.with_borrow_mut(BTreeMap::clear);
}

pub fn hold(from: IpAddr, to: IpAddr) {
    HELD.with_borrow_mut(|held| {
        held.entry((from, to)).or_default();
    });
}

pub fn release(from: IpAddr, to: IpAddr) {
    let waiting = HELD.with_borrow_mut(|held| held.remove(&(from, to)));
    waiting.into_iter().flatten().for_each(Waker::wake);
}

/// Ready when the socket has room.
pub fn poll(from: IpAddr, to: IpAddr, cx: &Context<'_>) -> Poll<()> {
    HELD.with_borrow_mut(|held| match held.get_mut(&(from, to)) {
        None => Poll::Ready(()),
        Some(waiting) => {
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        }
    })
}

/// Whether something waits on a link.
pub fn is_waiting(from: IpAddr, to: IpAddr) -> bool {
    HELD.with_borrow(|held| held.get(&(from, to)).is_some_and(|waiting| !waiting.is_empty()))
}
