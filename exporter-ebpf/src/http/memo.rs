//! A message like the last one is not read again.

use aya_ebpf::bindings::__sk_buff;

use super::{
    connection::{self, Connection},
    exemplar::kernel::end,
    framing::{Cursor, Source as _, get},
    head::Method,
    packet::{MEMO, Packet, Segment},
    pipeline::{self, depth, place},
    table::{BODY, CHUNKED, HAS_LENGTH, NO_BODY, RESPONSE, START},
};

/// How many bytes of a length are compared, from its first digit on.
const DIGITS: u32 = 8;
/// The longest body whose length is told by that many, with the line end: bytes.
const LONGEST: u64 = 9_999_999;
/// What tells a response to HEAD from others: it has the same head, and no body.
const BODILESS: u64 = 1 << 63;

impl Segment {
    /// A hash of what [`Self::peek`] loaded and of the payload's length; never 0.
    ///
    /// # Safety
    /// As [`Self::peek`].
    #[inline(always)]
    pub(super) unsafe fn memo(&self, cursor: *const Cursor) -> u64 {
        // Side by side: a multiplication waits for the one before only every fourth time.
        let mut lanes = [u64::from(self.len), 1, 2, 3];
        // SAFETY: within the window.
        unsafe {
            let window = (&raw const (*cursor).window).cast::<u64>();
            let mut i = 0;
            while i < MEMO as usize / 16 {
                lanes[i % 4] = mix(lanes[i % 4], get(window.add(i)));
                i += 1;
            }
            // Most of what is short is shorter than that.
            if self.len > MEMO / 2 {
                while i < MEMO as usize / 8 {
                    lanes[i % 4] = mix(lanes[i % 4], get(window.add(i)));
                    i += 1;
                }
            }
        }
        mix(mix(lanes[0], lanes[1].rotate_left(32)), mix(lanes[2], lanes[3].rotate_left(32)))
    }

    /// A request like the one before.
    #[inline(always)]
    pub(super) unsafe fn again(&self, this: *mut Connection, cursor: *mut Cursor, memo: u64) -> bool {
        // SAFETY: the caller's.
        unsafe {
            if memo != (*this).memo || depth(this) != 0 {
                return false;
            }
            let now = self.now();
            pipeline::begin(this, self.skb, cursor, (*this).memo_method, (*this).memo_route, now)
        }
    }

    /// A response like the one before.
    #[inline(always)]
    pub(super) unsafe fn answer(&self, this: *mut Connection, cursor: *const Cursor, memo: u64) -> bool {
        // SAFETY: the caller's.
        unsafe {
            if (*this).status != 0 || depth(this) == 0 || place(this, (*this).answered) != 0 {
                return false;
            }
            if (*this).response_memo == 0
                || response_memo(self.skb, this, cursor, memo) != (*this).response_memo
            {
                return false;
            }
            let now = self.now();
            (*this).first = now;
            (*this).last = now;
            (*this).status = (*this).memo_status;
            let body = get(&raw const (*cursor).end).wrapping_sub(u32::from((*this).memo_head));
            let left = (*this).memo_body.wrapping_sub(body);
            let stream = &raw mut (*this).responses;
            (*stream).body = u64::from(body);
            if left != 0 {
                (*stream).left = u64::from(left);
                (*stream).flags = RESPONSE | HAS_LENGTH;
                (*stream).state = BODY;
                return true;
            }
            end(self.skb, this, &raw mut (*this).request);
        }
        true
    }
}

/// Remembers a response that is alone in the segment: all of it, or its head and the beginning of a body whose length it tells.
/// `before` is how many had been answered.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn http_remember(
    skb: *mut __sk_buff,
    this: *mut Connection,
    cursor: *const Cursor,
    memo: u64,
    before: u32,
) -> u32 {
    if this.is_null() || cursor.is_null() {
        return 0;
    }
    let before = before as u16;
    // SAFETY: the verifier's: both have the size of their types, and `skb` is the context.
    unsafe {
        let stream = &raw const (*this).responses;
        let (state, flags) = (get(&raw const (*stream).state), get(&raw const (*stream).flags));
        let (body, left) = (get(&raw const (*stream).body), get(&raw const (*stream).left));
        let answered = get(&raw const (*this).answered).wrapping_sub(before);
        let is_whole = state == START && answered == 1;
        let goes_on = state == BODY && answered == 0 && (*this).status != 0;
        let head = u64::from(get(&raw const (*cursor).end)).wrapping_sub(body);
        // The method that tells responses apart is that of the first place.
        if !(is_whole || goes_on)
            || flags & CHUNKED != 0
            || body + left > LONGEST
            || head > u64::from(u16::MAX)
            || place(this, before) != 0
        {
            return 0;
        }
        if goes_on {
            (*this).memo_status = (*this).status;
        }
        let at = if flags & NO_BODY != 0 { 0 } else { (*stream).length_at };
        (*this).memo_at = if u32::from(at) + DIGITS <= MEMO { 0 } else { at };
        // Of what is whole nothing is to come, whatever its length says: it may be an answer to HEAD, or 304.
        let to_come = if goes_on { left } else { 0 };
        (*this).memo_body = (body + to_come) as u32;
        (*this).memo_head = head as u16;
        (*this).response_memo = response_memo(skb, this, cursor, memo);
    }
    1
}

/// The hash of a response: of its beginning, of whether it has a body, and of the digits of its length.
#[inline(always)]
unsafe fn response_memo(
    skb: *mut __sk_buff,
    this: *const Connection,
    cursor: *const Cursor,
    memo: u64,
) -> u64 {
    // SAFETY: the caller's; DIGITS bytes are loaded.
    unsafe {
        let is_bodiless = connection::is((*this).request.method, Method::Head);
        let memo = if is_bodiless { memo ^ BODILESS } else { memo };
        let mut at = u32::from((*this).memo_at);
        let end = get(&raw const (*cursor).end);
        if at == 0 || end < DIGITS {
            return memo;
        }
        if at > end - DIGITS {
            at = end - DIGITS;
        }
        let mut digits = 0_u64;
        let packet = Packet { skb, offset: get(&raw const (*cursor).offset) };
        if packet.load(at, (&raw mut digits).cast(), DIGITS) { mix(memo, digits) } else { 0 }
    }
}

/// Goes on with a hash; never 0.
#[inline(always)]
const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // The upper bits depend on all of a factor, the lower ones on few.
    (product ^ product >> 32) | 1
}
