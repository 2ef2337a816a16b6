//! One end of a wire in user space: what its network namespace sends goes to the other end as datagrams, and what comes from
//! there arrives here, after some of it was lost, sent twice or held back.
//!
//! `wire-end DEVICE OWN OTHER SEED`: a TUN device that is there, the two ends' sockets in the file system (which, unlike
//! addresses, all namespaces share), and where chance begins. The lines on its standard input:
//!
//! * `rough DROP REORDER DUPLICATE`: from now on, of 1,000 packets that come.
//! * `counts` prints how many were dropped, reordered and duplicated, and how many arrived.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use podmeter_tests::random::Random;

/// More than a packet has.
const PACKET: usize = 65_536;
/// How long a packet is held back when none comes that could overtake it.
const HELD: Duration = Duration::from_millis(5);

/// How rough the wire is, and what it did.
#[derive(Clone, Copy, Debug, Default)]
struct Wire {
    /// Of 1,000.
    drop: usize,
    reorder: usize,
    duplicate: usize,
    dropped: u64,
    reordered: u64,
    duplicated: u64,
    arrived: u64,
}

static WIRE: Mutex<Wire> = Mutex::new(Wire {
    drop: 0,
    reorder: 0,
    duplicate: 0,
    dropped: 0,
    reordered: 0,
    duplicated: 0,
    arrived: 0,
});

fn main() -> io::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [device, own, other, seed] = &arguments[..] else { panic!("DEVICE OWN OTHER SEED") };
    let tun = open(device)?;
    let socket = UnixDatagram::bind(own)?;
    println!("ready");
    let (sender, reader) = (UnixDatagram::unbound()?, tun.try_clone()?);
    let other = other.clone();
    thread::spawn(move || send(reader, &sender, Path::new(&other)));
    let random = Random::new(seed.parse().expect("a number"));
    thread::spawn(move || arrive(&socket, tun, random));
    for line in io::stdin().lines() {
        let line = line?;
        let words: Vec<_> = line.split(' ').collect();
        let mut wire = WIRE.lock().unwrap_or_else(PoisonError::into_inner);
        match words[..] {
            ["rough", drop, reorder, duplicate] => {
                let [drop, reorder, duplicate] =
                    [drop, reorder, duplicate].map(|word| word.parse().expect("a number"));
                *wire = Wire { drop, reorder, duplicate, ..*wire };
                println!("rough");
            }
            ["counts"] => {
                println!("{} {} {} {}", wire.dropped, wire.reordered, wire.duplicated, wire.arrived);
            }
            _ => panic!("{line} is none of the commands"),
        }
    }
    Ok(())
}

/// Attaches to the device: packets of IP, with nothing before them.
fn open(device: &str) -> io::Result<File> {
    /// `struct ifreq` of linux/if.h, as TUNSETIFF reads it.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: libc::c_short,
        rest: [u8; 22],
    }
    const _: () = assert!(size_of::<Request>() == 40);
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = Request { name: [0; 16], flags: (libc::IFF_TUN | libc::IFF_NO_PI) as _, rest: [0; 22] };
    request.name[..device.len()].copy_from_slice(device.as_bytes());
    // SAFETY: a pointer to a request of the kernel's layout and size, which lives through the call.
    if unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(tun)
}

/// Hands on what is sent at this end; the other may not be there yet, or no more.
fn send(mut tun: File, socket: &UnixDatagram, other: &Path) {
    let mut packet = vec![0; PACKET];
    while let Ok(length) = tun.read(&mut packet) {
        _ = socket.send_to(&packet[..length], other);
    }
}

/// Has arrive what comes from the other end.
fn arrive(socket: &UnixDatagram, mut tun: File, mut random: Random) {
    let mut packet = vec![0; PACKET];
    // Packets that are held back, and how many are to overtake each.
    let mut held: Vec<(Vec<u8>, usize)> = Vec::new();
    let mut write = |packet: &[u8]| _ = tun.write_all(packet);
    loop {
        let patience = if held.is_empty() { None } else { Some(HELD) };
        socket.set_read_timeout(patience).expect("a time");
        let length = match socket.recv(&mut packet) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                held.drain(..).for_each(|(packet, _)| write(&packet));
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let packet = &packet[..length];
        let mut wire = WIRE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chance = |of_1000: usize| random.below(1000) < of_1000;
        let (drop, reorder, duplicate) = (chance(wire.drop), chance(wire.reorder), chance(wire.duplicate));
        wire.arrived += u64::from(!drop);
        if drop {
            wire.dropped += 1;
        } else if reorder {
            wire.reordered += 1;
            held.push((packet.to_vec(), 1 + random.below(3)));
        } else {
            write(packet);
        }
        if duplicate && !drop {
            wire.duplicated += 1;
            write(packet);
        }
        if !drop && !reorder {
            held.iter_mut().for_each(|(_, after)| *after -= 1);
            held.extract_if(.., |(_, after)| *after == 0).for_each(|(packet, _)| write(&packet));
        }
    }
}
