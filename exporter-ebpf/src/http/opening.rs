//! What a connection speaks, and who asks: known from its first payload.

use aya_ebpf::bindings::__sk_buff;

use super::{
    connection::{CLIENT, Connection, SERVER, adopt, http_blind},
    coverage::Reason,
    framing::{Cursor, get},
    head::{Start, may_begin, start},
    packet::peek,
};
use crate::loss::{Loss, count};

/// A connection is not looked at any more when it had this many segments that are no HTTP in both directions,
const STRIKES: u8 = 2;
/// or this many in one: one that is older than the agent may be amid a long message.
const ONE_WAY_STRIKES: u8 = u8::MAX;
/// How short a segment is that may have less than a method and its space.
const SHORT: u32 = 8;

/// A payload on a connection whose role is not known: finds it. `seq` is the sequence number of its first byte.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn http_open(
    skb: *mut __sk_buff,
    this: *mut Connection,
    cursor: *mut Cursor,
    seq: u32,
) -> u32 {
    if this.is_null() || cursor.is_null() {
        return 0;
    }
    // SAFETY: the verifier's: both have the size of their types, and `skb` is the context.
    unsafe {
        adopt(this, skb);
        let (offset, len) = (get(&raw const (*cursor).offset), get(&raw const (*cursor).end));
        if !peek(skb, cursor, offset, len) {
            return 0;
        }
        let ingress = get(&raw const (*cursor).ingress) != 0;
        let head = (&raw const (*cursor).window).cast::<[u8; 16]>();
        match start(&*head) {
            Start::Request(..) => (),
            Start::Response => {
                count(Loss::ResponseUnmatched);
                return 0;
            }
            Start::Http2 => return give_up(this, Reason::Http2, Loss::ConnectionHttp2),
            Start::Tls => return give_up(this, Reason::Tls, Loss::ConnectionTls),
            // It may be a method of which there is no more yet.
            Start::Other if len < SHORT && may_begin(get(head.cast::<u64>()), len) => (),
            Start::Other => {
                let strikes = (&raw mut (*this).strikes).cast::<u8>();
                let own = strikes.add(usize::from(ingress));
                *own = (*own).saturating_add(1);
                if *own == ONE_WAY_STRIKES || (*strikes >= STRIKES && *strikes.add(1) >= STRIKES) {
                    return give_up(this, Reason::Unknown, Loss::ConnectionUnknown);
                }
                return 0;
            }
        }
        (*this).role = if ingress { SERVER } else { CLIENT };
        (*this).requests.next = seq;
    }
    1
}

fn give_up(this: *mut Connection, reason: Reason, loss: Loss) -> u32 {
    http_blind(this, reason as u32, loss as u32);
    0
}
